//! Objects of one kind by id. A copy shares everything that neither side changed, so taking one costs next to nothing,
//! and what differs between two copies is found without looking at what they share.

use std::fmt;
use std::ops::Index;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

/// Objects of one kind by id, each with the revision of its last write.
pub struct Objects<I, T>(OrdMap<I, Stored<T>>);

/// An object as it was last written.
struct Stored<T> {
    version: u64,
    object: Arc<T>,
}

/// One object that differs between two collections; none where it is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference<'a, T> {
    /// What it was.
    pub before: Option<&'a T>,
    /// What it is.
    pub after: Option<&'a T>,
}

impl<I: Ord + Copy, T: Eq> Objects<I, T> {
    /// The object with an id.
    pub fn get(&self, id: &I) -> Option<&T> {
        self.0.get(id).map(|stored| &*stored.object)
    }

    /// The revision of an object's last write.
    pub fn version(&self, id: &I) -> Option<u64> {
        self.0.get(id).map(|stored| stored.version)
    }

    /// Whether there is an object with an id.
    pub fn contains_key(&self, id: &I) -> bool {
        self.0.contains_key(id)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ids in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &I> {
        self.0.keys()
    }

    /// The objects in the order of their ids.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.0.values().map(|stored| &*stored.object)
    }

    /// Ids and objects in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&I, &T)> {
        self.0.iter().map(|(id, stored)| (id, &*stored.object))
    }

    /// What another collection has instead; what was only written again is no difference. The time it takes is in
    /// proportion to what one of the two was changed since they were copies.
    pub fn difference<'a>(
        &'a self,
        after: &'a Self,
    ) -> impl Iterator<Item = (I, Difference<'a, T>)> {
        self.0.diff(&after.0).map(|item| match item {
            DiffItem::Add(id, after) => (
                *id,
                Difference {
                    before: None,
                    after: Some(&*after.object),
                },
            ),
            DiffItem::Update { old, new } => (
                *old.0,
                Difference {
                    before: Some(&*old.1.object),
                    after: Some(&*new.1.object),
                },
            ),
            DiffItem::Remove(id, before) => (
                *id,
                Difference {
                    before: Some(&*before.object),
                    after: None,
                },
            ),
        })
    }

    /// Sets an object; returns what was in its place.
    pub(crate) fn insert(&mut self, id: I, version: u64, object: T) -> Option<Arc<T>> {
        let stored = Stored {
            version,
            object: Arc::new(object),
        };
        self.0.insert(id, stored).map(|stored| stored.object)
    }

    /// Removes an object and returns it.
    pub(crate) fn remove(&mut self, id: &I) -> Option<Arc<T>> {
        self.0.remove(id).map(|stored| stored.object)
    }
}

impl<T> Clone for Stored<T> {
    fn clone(&self) -> Self {
        Self {
            version: self.version,
            object: Arc::clone(&self.object),
        }
    }
}

/// The version does not count: an object that was written again unchanged is the same.
impl<T: Eq> PartialEq for Stored<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.object, &other.object) || self.object == other.object
    }
}

impl<T: Eq> Eq for Stored<T> {}

impl<I: Clone, T> Clone for Objects<I, T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<I, T> Default for Objects<I, T> {
    fn default() -> Self {
        Self(OrdMap::new())
    }
}

impl<I: Ord + Copy, T: Eq> PartialEq for Objects<I, T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<I: Ord + Copy, T: Eq> Eq for Objects<I, T> {}

impl<I: Ord + Copy + fmt::Debug, T: Eq + fmt::Debug> fmt::Debug for Objects<I, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_map().entries(self.iter()).finish()
    }
}

impl<I: Ord + Copy, T: Eq> Index<&I> for Objects<I, T> {
    type Output = T;

    fn index(&self, id: &I) -> &T {
        &self.0[id].object
    }
}
