//! Sums beside those of a plain reference.

use proptest::prelude::*;

use super::Sum;
use crate::packet::checksum;

proptest! {
    #[test]
    fn sums_are_those_of_the_reference(
        head in prop::collection::vec(any::<u8>(), 0..40),
        tail in prop::collection::vec(any::<u8>(), 0..3000),
        length in 0..100_000_usize,
    ) {
        // Parts begin at even places.
        let head = &head[..head.len() & !1];
        let sum = Sum::default().with(head).with(&tail);
        prop_assert_eq!(u16::from_be_bytes(sum.finish()), checksum(&[head, &tail]));
        prop_assert_eq!(u16::from_be_bytes(sum.partial()), !checksum(&[head, &tail]));

        let pseudo = Sum::of_pseudo_header(head, 17, length).with(&tail);
        let numbers = [&[0, 17][..], &(length as u32).to_be_bytes()].concat();
        prop_assert_eq!(u16::from_be_bytes(pseudo.finish()), checksum(&[head, &numbers, &tail]));

        // What is taken out might never have been in; zero and all ones are the same number.
        let without = u16::from_be_bytes(sum.with_number(length as u32).without_number(length as u32).finish());
        prop_assert_eq!(without % 0xffff, checksum(&[head, &tail]) % 0xffff);

        let sealed = Sum::default().with(head).with(&sum.finish()).with(&tail);
        prop_assert!(sealed.is_intact());
    }
}

#[test]
fn the_longest_packet_of_ones_does_not_overflow() {
    let bytes = [0xff; 65_536];
    let mut sum = Sum::default();
    for _ in 0..1000 {
        sum = sum.with(&bytes);
    }
    assert_eq!(sum.finish(), [0, 0]);
    assert!(sum.is_intact());
}
