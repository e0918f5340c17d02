//! Both ends of the connections of `bench/sni`: clients that send a ClientHello, and a device that answers. Neither does any
//! cryptography, so that what is measured is what lies between them.

use std::env::args;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What a server says at first: about a ServerHello with a certificate.
const ANSWER: [u8; 3000] = [0; 3000];
const CHUNK: usize = 256 << 10;
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    match run() {
        Ok(text) => {
            let _ = writeln!(std::io::stdout(), "{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<String> {
    let words: Vec<String> = args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["serve", short, bulk] => serve(short.parse()?, bulk.parse()?),
        ["connections", address, name, seconds, threads] => {
            connections(address.parse()?, name, seconds.parse()?, threads.parse()?)
        }
        ["bulk", address, name, seconds, streams] => {
            bulk(address.parse()?, name, seconds.parse()?, streams.parse()?)
        }
        _ => Err("usage: load serve ADDRESS ADDRESS | load connections|bulk ADDRESS NAME SECONDS THREADS".into()),
    }
}

/// Answers at the first address, and sends without an end at the second.
fn serve(short: SocketAddr, bulk: SocketAddr) -> Result<String> {
    let bulk = TcpListener::bind(bulk)?;
    thread::spawn(move || {
        while let Ok((mut stream, _)) = bulk.accept() {
            thread::spawn(move || {
                let chunk = vec![0; CHUNK];
                let _ = stream.read(&mut [0; 4096]);
                while stream.write_all(&chunk).is_ok() {}
            });
        }
    });
    let short = TcpListener::bind(short)?;
    let serving: Vec<_> = (0..8)
        .map(|_| {
            let short = short.try_clone();
            thread::spawn(move || {
                while let Ok((mut stream, _)) = short
                    .as_ref()
                    .map_or_else(|error| Err(error.kind().into()), TcpListener::accept)
                {
                    let _ = stream.read(&mut [0; 4096]);
                    let _ = stream.write_all(&ANSWER);
                    // The client is the one that ends it.
                    let _ = stream.read(&mut [0; 16]);
                }
            })
        })
        .collect();
    for thread in serving {
        let _ = thread.join();
    }
    Ok(String::new())
}

/// One connection after the other, each from a hello to an answer; how many, and how long each took.
fn connections(address: SocketAddr, name: &str, seconds: u64, threads: usize) -> Result<String> {
    let hello = hello(name);
    let end = Instant::now() + Duration::from_secs(seconds);
    let times: Vec<Result<Vec<Duration>>> = thread::scope(|scope| {
        let clients: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut times = Vec::new();
                    let mut answer = [0; ANSWER.len()];
                    while Instant::now() < end {
                        let begin = Instant::now();
                        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
                        stream.set_read_timeout(Some(PATIENCE))?;
                        stream.write_all(&hello)?;
                        stream.read_exact(&mut answer)?;
                        times.push(begin.elapsed());
                        stream.shutdown(Shutdown::Both)?;
                    }
                    Ok(times)
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| {
                client
                    .join()
                    .unwrap_or_else(|_| Err("a client died".into()))
            })
            .collect()
    });
    let mut all = Vec::new();
    for times in times {
        all.extend(times?);
    }
    all.sort_unstable();
    let at = |part: usize| {
        let place = (all.len() * part / 1000).min(all.len().saturating_sub(1));
        all.get(place).map_or(0.0, Duration::as_secs_f64) * 1000.0
    };
    Ok(format!(
        "{{\"count\":{},\"p50\":{:.3},\"p99\":{:.3}}}",
        all.len(),
        at(500),
        at(990)
    ))
}

/// Reads what comes, and throws it away.
fn bulk(address: SocketAddr, name: &str, seconds: u64, streams: usize) -> Result<String> {
    let hello = hello(name);
    let begin = Instant::now();
    let end = begin + Duration::from_secs(seconds);
    let counts: Vec<Result<u64>> = thread::scope(|scope| {
        let readers: Vec<_> = (0..streams)
            .map(|_| {
                scope.spawn(|| {
                    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.write_all(&hello)?;
                    let mut chunk = vec![0; CHUNK];
                    let mut count = 0;
                    while Instant::now() < end {
                        count += stream.read(&mut chunk)? as u64;
                    }
                    Ok(count)
                })
            })
            .collect();
        readers
            .into_iter()
            .map(|reader| {
                reader
                    .join()
                    .unwrap_or_else(|_| Err("a reader died".into()))
            })
            .collect()
    });
    let took = begin.elapsed().as_secs_f64();
    let mut total = 0;
    for count in counts {
        total += count?;
    }
    Ok(format!("{{\"bytes\":{total},\"seconds\":{took:.3}}}"))
}

/// A ClientHello of TLS 1.3 that names a host, in one record.
fn hello(name: &str) -> Vec<u8> {
    let entry = [&[0][..], &vector16(name.as_bytes())].concat();
    let share = [&[0, 0x1d][..], &vector16(&[9; 32])].concat();
    let extensions = [
        extension(0, &vector16(&entry)),
        extension(43, &[2, 3, 4]),
        extension(10, &vector16(&[0, 0x1d])),
        extension(13, &vector16(&[4, 3])),
        extension(51, &vector16(&share)),
    ]
    .concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[32],
        &[8; 32],
        &vector16(&[0x13, 1]),
        &[1, 0],
        &vector16(&extensions),
    ]
    .concat();
    let message = [&[1, 0][..], &vector16(&body)].concat();
    [&[22, 3, 1][..], &vector16(&message)].concat()
}

fn extension(kind: u8, content: &[u8]) -> Vec<u8> {
    [&[0, kind][..], &vector16(content)].concat()
}

fn vector16(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}
