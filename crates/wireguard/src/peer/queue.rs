//! Packets that wait for a session.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

/// For one peer; the oldest goes when one more comes.
const PACKETS: usize = 128;
/// For all peers together.
const BYTES: usize = 16 * 1024 * 1024;

/// How many bytes wait for sessions, of all peers.
#[derive(Default)]
pub(crate) struct Waiting(AtomicUsize);

#[derive(Default)]
pub(crate) struct Queue {
    packets: VecDeque<Vec<u8>>,
}

impl Queue {
    pub(crate) fn push(&mut self, packet: &[u8], waiting: &Waiting) {
        if self.packets.len() >= PACKETS
            && let Some(oldest) = self.packets.pop_front()
        {
            waiting.0.fetch_sub(oldest.len(), Ordering::Relaxed);
        }
        let before = waiting.0.fetch_add(packet.len(), Ordering::Relaxed);
        if before + packet.len() > BYTES {
            waiting.0.fetch_sub(packet.len(), Ordering::Relaxed);
            return;
        }
        self.packets.push_back(packet.to_vec());
    }

    pub(crate) fn take(&mut self, waiting: &Waiting) -> VecDeque<Vec<u8>> {
        let bytes = self.packets.iter().map(Vec::len).sum();
        waiting.0.fetch_sub(bytes, Ordering::Relaxed);
        std::mem::take(&mut self.packets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_and_all_peers_share_a_bound() {
        let waiting = Waiting::default();
        let mut queue = Queue::default();
        for number in 0..200_u8 {
            queue.push(&[number; 10], &waiting);
        }
        let packets = queue.take(&waiting);
        assert_eq!(packets.len(), PACKETS);
        assert_eq!(packets[0], [72; 10]);
        assert_eq!(waiting.0.load(Ordering::Relaxed), 0);

        let packet = vec![0; 60_000];
        let mut queues: Vec<Queue> = (0..100).map(|_| Queue::default()).collect();
        for queue in &mut queues {
            for _ in 0..PACKETS {
                queue.push(&packet, &waiting);
            }
        }
        let held: usize = queues
            .iter()
            .flat_map(|queue| &queue.packets)
            .map(Vec::len)
            .sum();
        assert_eq!(waiting.0.load(Ordering::Relaxed), held);
        assert!(held <= BYTES && held > BYTES - packet.len());
    }
}
