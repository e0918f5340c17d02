//! Names of hosts as clients send them.

/// The longest name in text (RFC 1035 §2.3.4).
const LONGEST: usize = 253;

/// A name in lower case without the dot at its end; nothing if a name of a host cannot be written so. Underscores are let
/// through, as there are names with them.
pub fn host_name(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.strip_suffix(b".").unwrap_or(bytes);
    let is_label = |label: &[u8]| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if bytes.len() > LONGEST || !bytes.split(|byte| *byte == b'.').all(is_label) {
        return None;
    }
    let name = std::str::from_utf8(bytes).ok()?;
    Some(name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::host_name;

    #[test]
    fn names_become_lower_case_or_nothing() {
        assert_eq!(host_name(b"Blog.Example.ORG").unwrap(), "blog.example.org");
        assert_eq!(host_name(b"a.example.").unwrap(), "a.example");
        assert_eq!(host_name(b"nas").unwrap(), "nas");
        assert_eq!(host_name(b"_a.xn--bcher-kva").unwrap(), "_a.xn--bcher-kva");
        let long = [b'a'; 64];
        for bad in [
            &b""[..],
            b".",
            b"..",
            b"a..b",
            b".a",
            b"a b",
            b"a\0b",
            b"*.a",
            b"a/b",
            "b\u{fc}cher".as_bytes(),
            &long,
        ] {
            assert_eq!(host_name(bad), None, "{bad:?}");
        }
        let longest = [&b"a.".repeat(126)[..], b"b"].concat();
        assert!(host_name(&longest).is_some());
        assert_eq!(host_name(&[&longest[..], b".c"].concat()), None);
    }
}
