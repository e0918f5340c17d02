//! A thread for what devices ask: to wake one worker of many takes longer than most answers.

use std::future::Future;
use std::thread;

use tokio::runtime::Builder;
use tokio::sync::oneshot;

/// Runs what `begin` makes on a thread of its own until it ends, or until this is dropped.
pub(super) async fn run<F>(name: &str, begin: impl FnOnce() -> F + Send + 'static)
where
    F: Future<Output = ()>,
{
    // Each end is dropped along with its side.
    let (_stop, stopped) = oneshot::channel::<()>();
    let (ending, ended) = oneshot::channel::<()>();
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return tracing::error!(%error, thread = name, "a thread cannot be made ready");
        }
    };
    let work = move || {
        let _ending = ending;
        runtime.block_on(async {
            tokio::select! {
                _ = stopped => {}
                () = begin() => {}
            }
        });
    };
    match thread::Builder::new().name(name.to_owned()).spawn(work) {
        Ok(_) => drop(ended.await),
        Err(error) => tracing::error!(%error, thread = name, "a thread cannot be started"),
    }
}
