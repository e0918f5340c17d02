//! The daemon's own log: to standard error, with priorities where that is the journal, and no more of one kind than
//! anybody can read.

use std::collections::HashMap;
use std::env;
use std::fmt;
use std::io::{self, IsTerminal as _};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Context, Filter, Layer as _, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Messages of one kind that are written within [`WINDOW`]; the rest is counted. What devices and callers can cause must
/// not fill a disk.
const BURST: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);

/// Begins to log; `RUST_LOG` wins over `-v`. Whoever asks for more than usual gets all of it.
pub(crate) fn start(verbose: u8) -> Arc<Limiter> {
    let level = match verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    // It writes out whole messages at `trace`, and the kernel's WireGuard is told its keys in some.
    let filter = match "netlink_proto::codecs=off".parse() {
        Ok(silent) => filter.add_directive(silent),
        Err(_) => EnvFilter::new("info"),
    };
    let is_usual = verbose == 0 && env::var_os(EnvFilter::DEFAULT_ENV).is_none();
    let burst = if is_usual { BURST } else { u32::MAX };
    let limiter = Arc::new(Limiter::new(burst));
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(verbose > 0);
    let layer = if is_journal() {
        let format = Format::default()
            .without_time()
            .with_level(false)
            .with_ansi(false)
            .with_target(verbose > 0);
        layer.event_format(Journal(format)).boxed()
    } else {
        layer.boxed()
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(Limit(Arc::clone(&limiter))))
        .with(filter)
        .init();
    limiter
}

/// Tells now and then how many messages were not written.
pub(crate) async fn tell_suppressed(limiter: Arc<Limiter>) {
    loop {
        tokio::time::sleep(WINDOW).await;
        for (message, count) in limiter.take_suppressed(Instant::now()) {
            tracing::warn!(count, "more of this kind were not written: {message}");
        }
    }
}

/// Whether standard error is the journal's (systemd.exec(5), `JOURNAL_STREAM`).
fn is_journal() -> bool {
    let stderr = std::fs::metadata("/proc/self/fd/2");
    let stream = env::var("JOURNAL_STREAM").ok();
    stderr
        .ok()
        .zip(stream)
        .is_some_and(|(stderr, stream)| stream == format!("{}:{}", stderr.dev(), stderr.ino()))
}

/// Counts messages by the place in the program that they come from.
#[derive(Debug)]
pub(crate) struct Limiter {
    burst: u32,
    kinds: Mutex<HashMap<Identifier, Kind>>,
}

#[derive(Debug)]
struct Kind {
    since: Instant,
    written: u32,
    suppressed: u64,
    message: String,
}

impl Limiter {
    fn new(burst: u32) -> Self {
        Self {
            burst,
            kinds: Mutex::default(),
        }
    }

    /// Whether one more may be written.
    fn admits(&self, kind: Identifier, now: Instant, message: impl FnOnce() -> String) -> bool {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = kinds.entry(kind).or_insert_with(|| Kind {
            since: now,
            written: 0,
            suppressed: 0,
            message: String::new(),
        });
        if now.duration_since(kind.since) >= WINDOW {
            kind.since = now;
            kind.written = 0;
        }
        if kind.written < self.burst {
            kind.written += 1;
            return true;
        }
        if kind.suppressed == 0 {
            kind.message = message();
        }
        kind.suppressed += 1;
        false
    }

    /// Examples of what was not written since the last time, and how many of each; forgets what is no longer limited.
    fn take_suppressed(&self, now: Instant) -> Vec<(String, u64)> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told = Vec::new();
        kinds.retain(|_, kind| {
            if kind.suppressed > 0 {
                told.push((std::mem::take(&mut kind.message), kind.suppressed));
                kind.suppressed = 0;
            }
            now.duration_since(kind.since) < WINDOW
        });
        told
    }
}

struct Limit(Arc<Limiter>);

impl<S: Subscriber> Filter<S> for Limit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let message = || {
            let mut message = Message(String::new());
            event.record(&mut message);
            message.0
        };
        let kind = event.metadata().callsite();
        self.0.admits(kind, Instant::now(), message)
    }
}

/// The text of an event, without its fields.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

/// Lines with the priority in front, and without the time that the journal adds.
struct Journal(Format<Full, ()>);

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// As in syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_kind_is_counted_and_hides_no_other() {
        let subscriber = tracing_subscriber::registry();
        let kinds: [Identifier; 2] = tracing::subscriber::with_default(subscriber, || {
            let callsites = [
                tracing::info_span!("a").metadata().map(Metadata::callsite),
                tracing::info_span!("b").metadata().map(Metadata::callsite),
            ];
            callsites.map(Option::unwrap)
        });
        let [flood, other] = kinds;
        let limiter = Limiter::new(3);
        let start = Instant::now();
        let written = (0..1000)
            .filter(|_| limiter.admits(flood.clone(), start, || "flood".to_owned()))
            .count();
        assert_eq!(written, 3);
        assert!(limiter.admits(other.clone(), start, String::new));
        assert_eq!(limiter.take_suppressed(start), [("flood".to_owned(), 997)]);
        assert_eq!(limiter.take_suppressed(start), []);
        assert!(!limiter.admits(flood.clone(), start, String::new));
        let later = start + WINDOW;
        assert!(limiter.admits(flood, later, String::new));
        limiter.take_suppressed(later + WINDOW);
        assert!(limiter.kinds.lock().unwrap().is_empty());
    }
}
