//! What a dissector of others makes of what we say.

use std::time::Duration;

use adit_lab::Host;
use anyhow::{Context as _, Result, ensure};

use super::{GATEWAY, PORT, search, upnpc};
use crate::support::World;

#[test]
fn tshark_finds_nothing_malformed() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-igd-tshark")?;
    let server = world.join("box", "--kind server")?;
    let file = server.host.folder()?.join("upnp.pcap");
    let file = file.to_str().context("a file with a name")?;
    let filter = format!("host {GATEWAY} and (udp port 1900 or tcp port {PORT})");
    let mut capture = server.host.spawn([
        "tcpdump",
        "-Z",
        "root",
        "--immediate-mode",
        "-U",
        "-i",
        &server.interface,
        "-w",
        file,
        &filter,
    ])?;
    capture.wait_for_output("listening on", Duration::from_secs(10))?;
    search(&server)?;
    upnpc(&server, "-i -a @ 8080 9080 tcp 600")?;
    upnpc(&server, "-i -L")?;
    // A fault.
    upnpc(&server, "-i -d 9081 tcp")?;
    upnpc(&server, "-i -S")?;
    capture.stop()?;

    let searches = dissect(&server.host, file, "ssdp && http.response.code == 200")?;
    ensure!(!searches.is_empty(), "no answer to a search");
    let faults = dissect(&server.host, file, "http.response.code == 500")?;
    ensure!(!faults.is_empty(), "no fault");
    let documents = dissect(&server.host, file, "xml && http.response.code == 200")?;
    ensure!(documents.lines().count() > 5, "few documents: {documents}");
    let wrong = "_ws.malformed || _ws.expert.severity == error || xml.unrecognized_text";
    let wrong = dissect(&server.host, file, wrong)?;
    ensure!(wrong.is_empty(), "{wrong}");
    Ok(())
}

/// One line for each packet that a filter of tshark's takes.
fn dissect(host: &Host, file: &str, filter: &str) -> Result<String> {
    let port = format!("tcp.port=={PORT},http");
    let output = host.exec(["tshark", "-n", "-r", file, "-d", &port, "-Y", filter])?;
    Ok(output.stdout)
}
