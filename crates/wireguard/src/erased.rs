//! A value whose place in memory is overwritten when it goes.

use std::mem::{ManuallyDrop, size_of};
use std::ops::{Deref, DerefMut};

use zeroize::Zeroize as _;

/// For secrets inside types of other crates that do not erase themselves. What the value keeps elsewhere on the heap is its own matter.
pub(crate) struct Erased<T>(Box<ManuallyDrop<T>>);

impl<T> Erased<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Box::new(ManuallyDrop::new(value)))
    }
}

impl<T> Deref for Erased<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Erased<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> Drop for Erased<T> {
    fn drop(&mut self) {
        let place: *mut ManuallyDrop<T> = &raw mut *self.0;
        #[expect(
            unsafe_code,
            reason = "no safe way reaches the bytes of a value that is no longer there"
        )]
        // SAFETY: the value is dropped once, here, and never used again: the box that is left frees its memory without looking at
        // it. That memory is ours alone, `size_of::<T>()` bytes long, and bytes need no alignment and may hold anything.
        unsafe {
            ManuallyDrop::drop(&mut *place);
            std::slice::from_raw_parts_mut(
                place.cast::<std::mem::MaybeUninit<u8>>(),
                size_of::<T>(),
            )
            .zeroize();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_value_inside_is_dropped_once() {
        let counted = Arc::new(());
        let erased = Erased::new((Arc::clone(&counted), String::from("secret")));
        assert_eq!(erased.1, "secret");
        assert_eq!(Arc::strong_count(&counted), 2);
        drop(erased);
        assert_eq!(Arc::strong_count(&counted), 1);
    }
}
