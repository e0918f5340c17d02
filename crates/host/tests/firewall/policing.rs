//! A socket that overflows: one who floods it is held back, and one who sends a little hardly notices.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use adit_host::firewall::Table;
use adit_host::policing::{Police, Policed, keep, withdraw};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::world::World;

const PORT: u16 = 51820;

/// What the reader takes before it pauses, as a dataplane that has to wait for a core.
const BATCH: usize = 50;
const PAUSE: Duration = Duration::from_millis(5);

const PACE: Duration = Duration::from_millis(2);
const NUMBER: u64 = 1_000;

/// WireGuard's data with a receiver's index, and the beginning of a handshake.
const FLOOD_DATA: [u8; 64] = datagram(4, 0x1111_1111);
const FLOOD_HANDSHAKES: [u8; 64] = datagram(1, 0x1111_1111);
const QUIET: [u8; 64] = datagram(4, 0x2222_2222);

const fn datagram(kind: u8, index: u32) -> [u8; 64] {
    let mut datagram = [0; 64];
    let index = index.to_le_bytes();
    datagram[0] = kind;
    datagram[4] = index[0];
    datagram[5] = index[1];
    datagram[6] = index[2];
    datagram[7] = index[3];
    datagram
}

#[test]
fn a_session_that_floods_is_held_back_and_its_neighbour_is_not() {
    let scene = Scene {
        bound: "0.0.0.0:51820",
        target: "192.0.2.1:51820",
        flooder: "192.0.2.9:4444",
        quiet: "192.0.2.9:5555",
        place: "outside",
        datagram: FLOOD_DATA,
    };
    scene.play();
}

#[test]
fn an_ipv6_network_that_floods_is_held_back() {
    let scene = Scene {
        bound: "[::]:51820",
        target: "[2001:db8:ff::1]:51820",
        flooder: "[2001:db8:ff::9]:4444",
        quiet: "[2001:db8:0:1::2]:5555",
        place: "device1",
        datagram: FLOOD_HANDSHAKES,
    };
    scene.play();
}

struct Scene {
    bound: &'static str,
    target: &'static str,
    flooder: &'static str,
    quiet: &'static str,
    /// Where the quiet one is.
    place: &'static str,
    datagram: [u8; 64],
}

/// Parts of what the quiet one sent that arrived, and what was told.
struct Outcome {
    before: f64,
    during: f64,
    told: Policed,
    tables: String,
}

impl Scene {
    fn play(&self) {
        let world = World::build();
        let reader = world.udp("gateway", self.bound);
        let flooder = world.udp("outside", self.flooder);
        let quiet = world.udp(self.place, self.quiet);
        let (floods, ends) = (AtomicBool::new(true), AtomicBool::new(false));
        let arrived = Arc::new(AtomicU64::new(0));
        let outcome = thread::scope(|scope| {
            scope.spawn(|| read_slowly(&reader, &arrived, &ends));
            scope.spawn(|| {
                while floods.load(Ordering::Relaxed) {
                    let _ = flooder.send_to(&self.datagram, self.target);
                }
            });
            let outcome = thread::Builder::new().spawn_scoped(scope, || {
                world.on_gateway(async |world| self.watch(world, &quiet, &arrived, &floods).await)
            });
            let outcome = outcome.unwrap().join();
            floods.store(false, Ordering::Relaxed);
            ends.store(true, Ordering::Relaxed);
            outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let Outcome {
            before,
            during,
            told,
            tables,
        } = outcome;
        assert!(
            before < 0.9,
            "without a limit {before:.3} arrive: nothing overflows"
        );
        assert!(during > 0.95, "{during:.3} of the quiet one's arrive");
        let worst = told.sources.first().unwrap();
        assert_eq!(worst.endpoint, self.flooder.parse().unwrap(), "{told:?}");
        assert_eq!(tables.trim(), "", "the limit was lifted");
    }

    async fn watch(
        &self,
        world: &World,
        quiet: &UdpSocket,
        arrived: &Arc<AtomicU64>,
        floods: &AtomicBool,
    ) -> Outcome {
        let before = self.share(quiet, arrived).await;
        let (listening, port) = watch::channel(Some(PORT));
        let (sender, mut policed) = watch::channel(None);
        let keeper = tokio::spawn(keep(Police::beside(&Table::default()), port, sender));
        let begun = timeout(Duration::from_secs(10), policed.wait_for(Option::is_some)).await;
        begun.unwrap().unwrap();
        sleep(Duration::from_secs(1)).await;
        // A machine that is busy besides takes a while until the limit suits it.
        let mut during = self.share(quiet, arrived).await;
        for _ in 0..3 {
            if during <= 0.95 {
                during = self.share(quiet, arrived).await;
            }
        }
        let told = policed.borrow().clone().unwrap();
        // Nothing overflows where the tunnel listens now; then it is back.
        listening.send_replace(Some(PORT + 1));
        let lifted = timeout(Duration::from_secs(5), policed.wait_for(Option::is_none)).await;
        lifted.unwrap().unwrap();
        listening.send_replace(Some(PORT));
        let again = timeout(Duration::from_secs(10), policed.wait_for(Option::is_some)).await;
        again.unwrap().unwrap();
        floods.store(false, Ordering::Relaxed);
        let ended = timeout(Duration::from_secs(30), policed.wait_for(Option::is_none)).await;
        ended.unwrap().unwrap();
        sleep(Duration::from_secs(2)).await;
        keeper.abort();
        Outcome {
            before,
            during,
            told,
            tables: world.shell("gateway", "nft list tables"),
        }
    }

    async fn share(&self, quiet: &UdpSocket, arrived: &Arc<AtomicU64>) -> f64 {
        let (socket, counter) = (quiet.try_clone().unwrap(), Arc::clone(arrived));
        let target = self.target;
        let sending = tokio::task::spawn_blocking(move || {
            let before = counter.load(Ordering::Relaxed);
            for _ in 0..NUMBER {
                socket.send_to(&QUIET, target).unwrap();
                thread::sleep(PACE);
            }
            thread::sleep(Duration::from_millis(200));
            counter.load(Ordering::Relaxed) - before
        });
        sending.await.unwrap() as f64 / NUMBER as f64
    }
}

fn read_slowly(socket: &UdpSocket, arrived: &AtomicU64, ends: &AtomicBool) {
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let mut buffer = [0; 128];
    while !ends.load(Ordering::Relaxed) {
        for _ in 0..BATCH {
            let Ok(length) = socket.recv(&mut buffer) else {
                break;
            };
            if buffer[..length] == QUIET {
                arrived.fetch_add(1, Ordering::Relaxed);
            }
        }
        thread::sleep(PAUSE);
    }
}

#[test]
fn what_an_earlier_daemon_left_is_removed() {
    World::build().on_gateway(async |world| {
        let police = Police::beside(&Table::default());
        police.begin(PORT, 1_000).await.unwrap();
        police.change(PORT, 2_000).await.unwrap();
        let listing = world.shell("gateway", "nft list table inet adit_police");
        assert!(listing.contains("limit rate over 2000/second"), "{listing}");
        assert!(
            !listing.contains("limit rate over 1000/second"),
            "{listing}"
        );
        world.shell("gateway", "nft flush ruleset");
        police.change(PORT, 3_000).await.unwrap();
        let listing = world.shell("gateway", "nft list table inet adit_police");
        assert!(listing.contains("limit rate over 3000/second"), "{listing}");
        withdraw().await.unwrap();
        withdraw().await.unwrap();
        assert_eq!(world.shell("gateway", "nft list tables").trim(), "");
        police.begin(PORT, 1_000).await.unwrap();
        let (_port, port) = watch::channel(Some(PORT));
        let (sender, _policed) = watch::channel(None);
        let keeper = tokio::spawn(keep(police, port, sender));
        sleep(Duration::from_secs(1)).await;
        keeper.abort();
        assert_eq!(world.shell("gateway", "nft list tables").trim(), "");
    });
}
