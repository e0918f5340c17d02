//! Times as people give them: a point in time, a span from now, a span before now, or never.

use std::str::FromStr;
use std::time::SystemTime;

use adit_api::timestamp::Timestamp;

/// What `--expires` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// `none`
    Never,
    /// RFC 3339
    At(Timestamp),
    /// Seconds from now, written as 30d or 12h.
    In(u64),
}

impl Expiry {
    /// The point in time; none: never.
    pub(crate) fn moment(self) -> Option<Timestamp> {
        match self {
            Self::Never => None,
            Self::At(time) => Some(time),
            Self::In(seconds) => {
                let now = Timestamp::from(SystemTime::now());
                Some(Timestamp(now.0.saturating_add(seconds)))
            }
        }
    }
}

impl FromStr for Expiry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::Never);
        }
        if let Ok(time) = text.parse() {
            return Ok(Self::At(time));
        }
        span(text).map(Self::In).ok_or_else(|| {
            "it takes a span such as 30d, 12h or 45m, a time such as 2030-12-31T23:59:59Z, or `none`"
                .to_owned()
        })
    }
}

/// What `--since` takes: a point in time, or a span before now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Past(pub(crate) Timestamp);

impl FromStr for Past {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = text.parse() {
            return Ok(Self(time));
        }
        let now = Timestamp::from(SystemTime::now());
        let seconds = span(text).ok_or_else(|| {
            "it takes a span such as 7d, 2h or 45m, or a time such as 2030-12-31T23:59:59Z"
                .to_owned()
        })?;
        Ok(Self(Timestamp(now.0.saturating_sub(seconds))))
    }
}

fn span(text: &str) -> Option<u64> {
    let unit = text.chars().next_back()?;
    let number: u64 = text.get(..text.len() - unit.len_utf8())?.parse().ok()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        _ => return None,
    };
    // A hundred years; what is longer is a slip of the finger.
    number
        .checked_mul(seconds)
        .filter(|total| (1..=36_500 * 86_400).contains(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_times_and_none_are_told_apart() {
        assert_eq!("30d".parse(), Ok(Expiry::In(2_592_000)));
        assert_eq!("none".parse(), Ok(Expiry::Never));
        assert_eq!(
            "1970-01-02T00:00:00Z".parse(),
            Ok(Expiry::At(Timestamp(86_400)))
        );
        for bad in [
            "",
            "d",
            "30",
            "0d",
            "-1d",
            "30y",
            "40000d",
            "1ä",
            "2030-12-31",
        ] {
            assert!(bad.parse::<Expiry>().is_err(), "{bad}");
        }
    }
}
