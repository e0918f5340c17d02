//! Refuses what a web page elsewhere makes a browser send: DNS rebinding, and requests across origins.

use std::net::IpAddr;

use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri};

/// Whom the requests on one connection may be meant for.
#[derive(Clone, Copy)]
pub(super) struct Addressee<'a> {
    /// The address that the connection came to.
    pub(super) local: IpAddr,
    /// Whether an address is one of an uplink, or what the Internet sees of it.
    pub(super) is_uplink: &'a dyn Fn(IpAddr) -> bool,
    /// Names from the configuration.
    pub(super) names: &'a [String],
    /// `http` or `https`.
    pub(super) scheme: &'static str,
}

/// Whether a request says who it is for, means this gateway, and comes from no other site.
pub(super) fn is_ours(uri: &Uri, headers: &HeaderMap, addressee: Addressee<'_>) -> bool {
    let Some(host) = single(headers, &HOST) else {
        return false;
    };
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    // A request may name its host in its first line too, and be routed by that (RFC 9112 section 3.2.2).
    if !addressee.is_meant(&authority)
        || uri
            .authority()
            .is_some_and(|named| !named.as_str().eq_ignore_ascii_case(host))
    {
        return false;
    }
    match headers.contains_key(ORIGIN) {
        false => true,
        true => single(headers, &ORIGIN).is_some_and(|origin| {
            let own = format!("{}://{host}", addressee.scheme);
            origin.eq_ignore_ascii_case(&own)
        }),
    }
}

impl Addressee<'_> {
    fn is_meant(&self, authority: &Authority) -> bool {
        if authority.as_str().contains('@') {
            return false;
        }
        let host = authority.host();
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        match literal.parse::<IpAddr>() {
            Ok(address) => self.has(address.to_canonical()),
            Err(_) => {
                let host = host.strip_suffix('.').unwrap_or(host);
                host.eq_ignore_ascii_case("localhost")
                    || self
                        .names
                        .iter()
                        .any(|name| name.eq_ignore_ascii_case(host))
            }
        }
    }

    fn has(&self, address: IpAddr) -> bool {
        address.is_loopback() || address == self.local.to_canonical() || (self.is_uplink)(address)
    }
}

fn single<'a>(headers: &'a HeaderMap, name: &axum::http::HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        (Some(_) | None, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn passes(target: &str, host: Option<&str>, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in [(HOST, host), (ORIGIN, origin)] {
            if let Some(value) = value {
                headers.insert(name, HeaderValue::from_str(value).unwrap());
            }
        }
        let addressee = Addressee {
            local: "::ffff:203.0.113.2".parse().unwrap(),
            is_uplink: &|address| address == "2001:db8::2".parse::<IpAddr>().unwrap(),
            names: &["gw.example.com".to_owned()],
            scheme: "https",
        };
        is_ours(&target.parse().unwrap(), &headers, addressee)
    }

    #[test]
    fn a_request_names_this_gateway() {
        for host in [
            "203.0.113.2",
            "203.0.113.2:8443",
            "[2001:db8::2]:8443",
            "gw.example.com",
            "GW.example.com.:1",
            "localhost:8443",
            "127.0.0.1:8443",
            "[::1]:8443",
        ] {
            assert!(passes("/", Some(host), None), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "203.0.113.3:8443",
            "203.0.113.2.evil.example",
            "gw.example.com.evil.example",
            "localhost.evil.example",
            "user@gw.example.com",
            "gw.example.com/",
            "[2001:db8::3]",
            "2001:db8::2",
            "a b",
        ] {
            assert!(!passes("/", Some(host), None), "{host}");
        }
        assert!(!passes("/", None, None));
        assert!(!passes(
            "http://evil.example/",
            Some("gw.example.com"),
            None
        ));
        assert!(passes(
            "http://gw.example.com/",
            Some("gw.example.com"),
            None
        ));
    }

    #[test]
    fn a_request_of_a_page_comes_from_the_very_origin_that_it_is_for() {
        let from = |host, origin| passes("/", Some(host), Some(origin));
        assert!(from("localhost:8443", "https://localhost:8443"));
        for origin in [
            "http://localhost:8443",
            "https://localhost",
            "https://localhost:3000",
            "https://evil.example",
            "null",
            "",
        ] {
            assert!(!from("localhost:8443", origin), "{origin}");
        }
    }
}
