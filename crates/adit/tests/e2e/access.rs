//! The API from elsewhere: TLS, tokens, and those who want to keep others from it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use adit_lab::{Host, Lab, Output, Topology, wait_until};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::support::{Findings, PUBLIC4, PUBLIC6, World, at, binary, connect};

const PORT: u16 = 8443;
const LIMIT: Duration = Duration::from_secs(4);

#[test]
fn the_api_is_there_for_those_who_have_a_token() -> Result<()> {
    let lab = Lab::temporary(&Topology::by_name("routed")?, "e2e-access")?;
    let mut gateway = lab.gateway(binary())?;
    let configuration = lab.folder().join("gateway.toml");
    fs::write(
        &configuration,
        format!("[api]\nlisten = \"[::]:{PORT}\"\nnames = [\"gw.example.com\"]\n"),
    )?;
    gateway.run_with(["--config".as_ref(), configuration.as_os_str()]);
    gateway.start()?;
    let mut world = World::of(gateway, lab);
    world.adit("subnet add lan --ipv4 10.59.0.0/24 --ipv6 2001:db8:100:1::/64")?;
    let mut findings = Findings::default();
    findings.check("its own certificate", own_certificate(&world));
    findings.check("the command line", command_line(&world));
    findings.check("who is not let in", strangers(&world));
    findings.check("a token for one device", one_device(&world));
    findings.check("a token is removed", removal(&world));
    findings.check("many bad tokens", flood(&world));
    findings.check("slow connections", slowloris(&world));
    findings.check("no core dumps", core_dumps(&mut world));
    findings.check("renewed files", renewal(&mut world, &configuration));
    findings.check("bad files", bad_files(&world));
    findings.conclude()
}

/// What a command elsewhere needs.
struct Door {
    host: Host,
    url: String,
    token: PathBuf,
    certificate: Option<PathBuf>,
}

impl Door {
    fn run(&self, command: &str) -> Result<Output> {
        let mut words = vec![
            binary().as_os_str().to_owned(),
            "--url".into(),
            self.url.clone().into(),
            "--token-file".into(),
            self.token.clone().into(),
        ];
        if let Some(certificate) = &self.certificate {
            words.extend(["--ca-file".into(), certificate.clone().into()]);
        }
        words.extend(command.split_whitespace().map(Into::into));
        words.push("--json".into());
        self.host.try_exec(words)
    }

    fn adit(&self, command: &str) -> Result<Value> {
        let output = self.run(command)?;
        ensure!(output.status.success(), "{command}: {output}");
        serde_json::from_str(&output.stdout).with_context(|| output.to_string())
    }

    /// The exit status and the error.
    fn refused(&self, command: &str) -> Result<(Option<i32>, Value)> {
        let output = self.run(command)?;
        let document: Value =
            serde_json::from_str(&output.stderr).with_context(|| format!("{command}: {output}"))?;
        ensure!(output.stdout.is_empty(), "{command}: {output}");
        Ok((output.status.code(), document["error"].clone()))
    }
}

fn own(world: &World, name: &str) -> PathBuf {
    world.gateway.state_dir().join(name)
}

fn door(world: &World, host: &str, token: &str) -> Result<Door> {
    Ok(Door {
        host: world.host(host)?,
        url: format!("https://{PUBLIC4}:{PORT}"),
        token: token_file(world, token)?,
        certificate: Some(own(world, "api-certificate.pem")),
    })
}

fn token_file(world: &World, token: &str) -> Result<PathBuf> {
    let end: String = token.chars().rev().take(8).collect();
    let path = world.lab.folder().join(format!("{end}.token"));
    let mut file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)?;
    writeln!(file, "{token}")?;
    Ok(path)
}

fn add_token(world: &World, arguments: &str) -> Result<String> {
    let added = world.adit(&format!("token add {arguments}"))?;
    let secret = added["secret"].as_str().context("the secret")?;
    Ok(secret.to_owned())
}

fn own_certificate(world: &World) -> Result<()> {
    let api = world.adit("status")?["api"].clone();
    ensure!(
        api["tls"] == true && api["address"] == format!("[::]:{PORT}"),
        "{api}"
    );
    let mode = fs::metadata(own(world, "api-key.pem"))?
        .permissions()
        .mode()
        & 0o777;
    ensure!(mode == 0o600, "the key has mode {mode:o}");
    let program = "import hashlib, ssl, sys; \
                   print(hashlib.sha256(ssl.PEM_cert_to_DER_cert(open(sys.argv[1]).read())).hexdigest())";
    let certificate = own(world, "api-certificate.pem");
    let digest = world.host("vps")?.exec([
        "python3".as_ref(),
        "-c".as_ref(),
        program.as_ref(),
        certificate.as_os_str(),
    ])?;
    let shown = api["fingerprint"].as_str().context("fingerprint")?;
    ensure!(
        shown.replace(':', "").to_lowercase() == digest.stdout.trim(),
        "{shown} is not {digest}"
    );
    ensure!(world.gateway.log()?.contains(shown), "not in the log");
    Ok(())
}

fn command_line(world: &World) -> Result<()> {
    let secret = add_token(world, "all --scope read,write,secrets")?;
    let mut door = door(world, "internet", &secret)?;
    for url in [
        format!("https://{PUBLIC4}:{PORT}"),
        format!("https://[{PUBLIC6}]:{PORT}"),
    ] {
        door.url = url;
        let status = door.adit("status")?;
        ensure!(status["applied"] == true, "{status}");
        ensure!(door.adit("token list")?["tokens"][0]["name"] == "all");
    }
    let added = door.adit("device add nas --kind server")?;
    ensure!(
        added["config"]
            .as_str()
            .is_some_and(|text| text.contains("PresharedKey = "))
    );
    door.adit("forward add 8080/tcp nas --label web")?;
    door.adit("device add rival")?;
    ensure!(world.list("forward")?.len() == 1);
    ensure!(
        door.run("device config nas")?
            .stdout
            .contains("PresharedKey = ")
    );

    door.token = token_file(world, &add_token(world, "reader")?)?;
    ensure!(
        door.adit("device list")?["devices"]
            .as_array()
            .map(Vec::len)
            == Some(2)
    );
    for command in [
        "device add x",
        "device config nas",
        "token add x",
        "device remove nas",
    ] {
        let (status, error) = door.refused(command)?;
        ensure!(
            status == Some(1) && error["code"] == "forbidden",
            "{command}: {error}"
        );
    }
    ensure!(world.list("device")?.len() == 2);

    // A token that everybody can read is no secret.
    fs::set_permissions(&door.token, fs::Permissions::from_mode(0o644))?;
    let (status, error) = door.refused("status")?;
    ensure!(
        status == Some(1) && error["code"] == "token-file-open",
        "{error}"
    );
    Ok(())
}

fn strangers(world: &World) -> Result<()> {
    let mut door = door(world, "stranger", "adit_0123")?;
    let (status, error) = door.refused("status")?;
    ensure!(
        status == Some(1) && error["code"] == "unauthorized",
        "{error}"
    );
    // Whom nobody vouches for is told no token.
    let certificate = door.certificate.take();
    let (status, error) = door.refused("status")?;
    ensure!(status == Some(3), "{error}");
    door.certificate = Some(own(world, "private.key"));
    let (status, error) = door.refused("status")?;
    ensure!(status == Some(2), "{error}");
    door.certificate = certificate;
    door.url = format!("http://{PUBLIC4}:{PORT}");
    let (status, error) = door.refused("status")?;
    ensure!(
        status == Some(2)
            && error["message"]
                .as_str()
                .is_some_and(|text| text.contains("clear")),
        "{error}"
    );
    door.url = format!("https://{PUBLIC4}:{}", PORT + 1);
    let (status, error) = door.refused("status")?;
    ensure!(
        status == Some(3) && error["code"] == "unreachable",
        "{error}"
    );

    // Plain HTTP is not answered.
    let mut stream = connect(&door.host, None, at(PUBLIC4, PORT), LIMIT)?;
    // In one piece: after the first the connection may be over.
    let request = format!("GET /api/v1/status HTTP/1.1\r\nHost: {PUBLIC4}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    // The connection may be reset instead of closed.
    let _ = stream.read_to_end(&mut answer);
    ensure!(
        !answer.starts_with(b"HTTP/"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    Ok(())
}

fn one_device(world: &World) -> Result<()> {
    let secret = add_token(world, "of-rival --scope read,write --device rival")?;
    let door = door(world, "stranger", &secret)?;
    let devices = door.adit("device list")?;
    ensure!(
        devices["devices"].as_array().map(Vec::len) == Some(1)
            && devices["devices"][0]["name"] == "rival",
        "{devices}"
    );
    ensure!(
        door.adit("forward list")?["forwards"]
            .as_array()
            .map(Vec::len)
            == Some(0)
    );
    let forward = world.list("forward")?[0]["id"].clone();
    let revision = world.revision()?;
    for command in [
        "status",
        "device show nas",
        "device remove rival",
        "forward add 9999 nas",
        &format!("forward remove {forward}"),
        &format!("forward set {forward} --disable"),
        "subnet list",
        "settings show",
    ] {
        let (status, error) = door.refused(command)?;
        ensure!(
            status == Some(1) && error["code"] == "forbidden",
            "{command}: {error}"
        );
    }
    ensure!(world.revision()? == revision, "something was changed");
    door.adit("forward add 9999/udp rival")?;
    world.adit("device remove rival")?;
    let (_, error) = door.refused("device list")?;
    ensure!(
        error["code"] == "unauthorized",
        "the token outlives its device: {error}"
    );
    Ok(())
}

fn removal(world: &World) -> Result<()> {
    let door = door(world, "internet", &add_token(world, "short --scope read")?)?;
    door.adit("status")?;
    world.adit("token remove short")?;
    let (status, error) = door.refused("status")?;
    ensure!(
        status == Some(1) && error["code"] == "unauthorized",
        "{error}"
    );
    let door = self::door(world, "internet", &add_token(world, "brief --expires 2s")?)?;
    door.adit("status")?;
    wait_until("the token expires", Duration::from_secs(10), || {
        let output = door.run("status")?;
        Ok(output.stderr.contains("unauthorized"))
    })
}

fn flood(world: &World) -> Result<()> {
    let good = door(world, "stranger", &add_token(world, "patient")?)?;
    let bad = door(world, "stranger", "adit_bad")?;
    let mut codes = Vec::new();
    for _ in 0..400 {
        let (_, error) = bad.refused("status")?;
        codes.push(error["code"].as_str().unwrap_or_default().to_owned());
        if codes.last().is_some_and(|code| code == "too-many-attempts") {
            break;
        }
    }
    ensure!(codes[0] == "unauthorized", "{codes:?}");
    ensure!(
        codes.last().is_some_and(|code| code == "too-many-attempts"),
        "400 bad tokens, and all were looked at"
    );
    world.adit("status")?;
    good.adit("status")?;
    Ok(())
}

fn slowloris(world: &World) -> Result<()> {
    let stranger = world.host("stranger")?;
    let secret = add_token(world, "amid")?;
    let mut held = Vec::new();
    for number in 0..300 {
        let mut stream = connect(&stranger, None, at(PUBLIC4, PORT), LIMIT)?;
        if number % 2 == 0 {
            // The beginning of a TLS record, and no more of it.
            stream.write_all(&[22, 3, 1])?;
        }
        held.push(stream);
    }
    for host in ["stranger", "internet"] {
        let door = door(world, host, &secret)?;
        let began = Instant::now();
        door.adit("status")?;
        let took = began.elapsed();
        ensure!(took < LIMIT, "{host} waited for {took:?}");
    }
    world.adit("status")?;
    // They are cut, the last as well as the first.
    for index in [0, held.len() - 1] {
        held[index].set_read_timeout(Some(Duration::from_secs(20)))?;
        is_cut(&mut held[index])?;
    }
    Ok(())
}

fn is_cut(stream: &mut TcpStream) -> Result<()> {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error).context("a connection that says nothing is held open"),
    }
}

fn core_dumps(world: &mut World) -> Result<()> {
    let pid = world.gateway.process_id()?.context("the daemon runs")?;
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .context("the limit of core files")?;
    let values: Vec<&str> = line.split_whitespace().skip(4).take(2).collect();
    ensure!(values == ["0", "0"], "{line}");
    Ok(())
}

/// The certificates are those that the gateway makes: one in use, another that takes its place.
fn renewal(world: &mut World, configuration: &Path) -> Result<()> {
    let folder = world.lab.folder();
    let files =
        |number: u8| ["certificate", "key"].map(|name| folder.join(format!("{name}-{number}.pem")));
    let keep = |world: &World, number: u8| -> Result<()> {
        for (name, kept) in ["api-certificate.pem", "api-key.pem"]
            .iter()
            .zip(files(number))
        {
            fs::rename(own(world, name), &kept)?;
        }
        Ok(())
    };
    keep(world, 1)?;
    world.gateway.terminate()?;
    world.gateway.start()?;
    keep(world, 2)?;
    let [certificate, key] = files(1);
    fs::write(
        configuration,
        format!(
            "[api]\nlisten = \"0.0.0.0:{PORT}\"\ntls-certificate = \"{}\"\ntls-key = \"{}\"\n",
            certificate.display(),
            key.display()
        ),
    )?;
    world.gateway.terminate()?;
    world.gateway.start()?;
    ensure!(
        !own(world, "api-key.pem").exists(),
        "a certificate was made beside"
    );
    let mut door = door(world, "internet", &add_token(world, "renewing")?)?;
    let given = folder.join("given.pem");
    fs::copy(&certificate, &given)?;
    door.certificate = Some(given.clone());
    door.adit("status")?;

    let fingerprint = |world: &World| -> Result<Value> {
        Ok(world.adit("status")?["api"]["fingerprint"].clone())
    };
    let before = fingerprint(world)?;
    let [second, second_key] = files(2);
    fs::rename(&second, &certificate)?;
    // In between, the two do not fit together: the old pair stays in use, and that is told.
    wait_until("a problem is told", Duration::from_secs(30), || {
        let problems = world.adit("status")?["problems"].to_string();
        Ok(problems.contains("certificate-not-renewed"))
    })?;
    ensure!(fingerprint(world)? == before);
    door.adit("status")?;
    fs::rename(&second_key, &key)?;
    wait_until(
        "the certificate is renewed",
        Duration::from_secs(30),
        || Ok(fingerprint(world)? != before),
    )?;
    ensure!(
        !world.adit("status")?["problems"]
            .to_string()
            .contains("certificate")
    );
    let (status, error) = door.refused("status")?;
    ensure!(status == Some(3) && error["code"] == "untrusted", "{error}");
    ensure!(
        error["hint"]
            .as_str()
            .is_some_and(|hint| hint.contains("--ca-file")),
        "{error}"
    );
    fs::copy(&certificate, &given)?;
    door.adit("status")?;
    Ok(())
}

fn bad_files(world: &World) -> Result<()> {
    let folder = world.lab.folder().join("bad");
    fs::create_dir_all(&folder)?;
    let nonsense = folder.join("nonsense.pem");
    fs::write(&nonsense, "nonsense\n")?;
    let missing = folder.join("missing.pem");
    let certificate = world.lab.folder().join("certificate-1.pem");
    let host = world.host("stranger")?;
    for (certificate, key, field, file) in [
        (&missing, &nonsense, "`tls-certificate`", &missing),
        (&nonsense, &nonsense, "`tls-certificate`", &nonsense),
        (&certificate, &missing, "`tls-key`", &missing),
    ] {
        let configuration = folder.join("gateway.toml");
        fs::write(
            &configuration,
            format!(
                "state-dir = \"{0}/state\"\nruntime-dir = \"{0}/run\"\n[api]\nlisten = \"127.0.0.1:{PORT}\"\n\
                 tls-certificate = \"{1}\"\ntls-key = \"{2}\"\n",
                folder.display(),
                certificate.display(),
                key.display()
            ),
        )?;
        let output = host.try_exec([
            binary().as_os_str(),
            "gateway".as_ref(),
            "run".as_ref(),
            "--config".as_ref(),
            configuration.as_os_str(),
        ])?;
        ensure!(output.status.code() == Some(1), "{output}");
        let file = file.display().to_string();
        ensure!(
            output.stderr.contains(field) && output.stderr.contains(&file),
            "{field} {file}: {output}"
        );
    }
    Ok(())
}
