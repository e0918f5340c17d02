//! What the client does with addresses and with answers that are not a gateway's.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use super::*;

#[test]
fn a_name_stays_one_segment_of_a_path() {
    assert_eq!(path("devices", "nas-1.home"), "/devices/nas-1.home");
    assert_eq!(path("devices", "../a b?ä"), "/devices/..%2Fa%20b%3F%C3%A4");
    assert_eq!(path("devices", ".."), "/devices/%2E%2E");
}

#[test]
fn only_addresses_of_a_gateway_are_taken() {
    for url in [
        "ftp://gw:8443",
        "gw:80",
        "http://gw/api",
        "http://gw/?x",
        "",
    ] {
        assert!(Client::remote(url, None, None).is_err(), "{url}");
    }
    let Target::Tcp { host, port, .. } = Client::remote("http://[::1]:8080/", None, None)
        .unwrap()
        .target
    else {
        panic!("not TCP")
    };
    assert_eq!((host.as_str(), port), ("::1", 8080));
    assert!(Client::remote("http://[::1]", Some("a\nb"), None).is_err());
    for (url, is_safe) in [
        ("http://localhost:80", true),
        ("http://127.0.0.1", true),
        ("http://[::1]:1", true),
        ("http://gw", false),
        ("http://localhost.example", false),
        ("http://203.0.113.2:80", false),
    ] {
        let client = Client::remote(url, Some("adit_x"), None);
        assert_eq!(client.is_ok(), is_safe, "a token in clear: {url}");
    }
}

#[tokio::test]
async fn an_answer_of_something_else_is_no_refusal() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 1024];
        let length = stream.read(&mut head).unwrap();
        stream
            .write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\noops")
            .unwrap();
        String::from_utf8_lossy(&head[..length]).into_owned()
    });
    let client = Client::remote(&url, Some("adit_x"), None).unwrap();
    let error = client.status().await.unwrap_err();
    assert!(matches!(error, ClientError::Protocol { .. }), "{error:?}");
    let head = server.join().unwrap().to_lowercase();
    assert!(
        head.starts_with("get /api/v1/status http/1.1\r\n"),
        "{head}"
    );
    assert!(
        head.contains("\r\nauthorization: bearer adit_x\r\n"),
        "{head}"
    );
    assert!(!format!("{client:?}").contains("adit_x"));
}

#[tokio::test]
async fn a_gateway_that_is_not_there_is_unreachable() {
    let error = Client::unix(Path::new("/nonexistent/adit.sock"))
        .status()
        .await
        .unwrap_err();
    assert!(
        matches!(error, ClientError::Unreachable { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("/nonexistent/adit.sock"));
}
