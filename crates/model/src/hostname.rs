//! The rule for TLS names: host names as they stand in a certificate, in A-labels and lower case.

use crate::refusal::Refusal;

/// Longest name and longest label (RFC 1035 section 2.3.4).
const LONGEST: usize = 253;
const LONGEST_LABEL: usize = 63;

/// Checks a name, and writes it in lower case. A name may begin with a label `*`, which stands for one label (RFC 6125
/// section 6.4.3).
///
/// # Errors
///
/// [`Refusal::HostnameInvalid`] says which rule it breaks.
pub fn parse(text: &str) -> Result<String, Refusal> {
    match fault(text) {
        None => Ok(text.to_ascii_lowercase()),
        Some(reason) => Err(Refusal::HostnameInvalid {
            hostname: text.chars().take(100).collect(),
            reason,
        }),
    }
}

fn fault(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        return Some("it is empty");
    }
    if text.len() > LONGEST {
        return Some("it is longer than 253 octets");
    }
    if !text.is_ascii() {
        return Some("it has letters that a certificate writes as A-labels (`xn--…`)");
    }
    let (is_wildcard, rest) = match text.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if rest.contains('*') {
        return Some(if is_wildcard || text.len() > 1 {
            "`*` stands for the whole first label only"
        } else {
            "`*` alone is no name; a forward without a name takes what no name takes"
        });
    }
    for label in rest.split('.') {
        if label.is_empty() {
            return Some("it has an empty label");
        }
        if label.len() > LONGEST_LABEL {
            return Some("it has a label longer than 63 octets");
        }
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if !label.bytes().all(good) || label.starts_with('-') || label.ends_with('-') {
            return Some("a label has letters, digits and, inside, `-`");
        }
    }
    let last = rest.rsplit('.').next().unwrap_or(rest);
    // A client that connects to an address sends no name (RFC 6066 section 3).
    last.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some("it is an address, which is no name that a client asks for")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_certificates() {
        let label = "a".repeat(63);
        let long = format!("{label}.{label}.{label}.{}", "b".repeat(61));
        for (text, name) in [
            ("blog.example.org", "blog.example.org"),
            ("Blog.Example.ORG", "blog.example.org"),
            ("*.example.org", "*.example.org"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("nas", "nas"),
            ("1.2.3.4.example", "1.2.3.4.example"),
            (&long, &long),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(name), "{text}");
        }
        let longer = format!("{long}b");
        let wide = format!("{label}a.example");
        for bad in [
            "",
            "*",
            "*.",
            ".",
            "a.",
            ".a",
            "a..b",
            "**.a",
            "*a.b",
            "a*.b",
            "a.*",
            "*.*.b",
            "-a.b",
            "a-.b",
            "a b",
            "a_b.c",
            "bücher.example",
            "192.0.2.1",
            "2001:db8::1",
            "a\n",
            &longer,
            &wide,
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
