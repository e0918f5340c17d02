//! The table as connections look things up in it.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::table::{Listener, Route};

/// The names behind one listener.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    exact: HashMap<String, Arc<Entry>>,
    /// By what follows `*.`
    wildcards: HashMap<String, Arc<Entry>>,
    fallback: Option<Arc<Entry>>,
}

/// Where one name, or the rest, leads to; it stays the same object as long as that does.
#[derive(Debug)]
pub(crate) struct Entry {
    /// As in the table; nothing for the fallback.
    pub(crate) name: Option<String>,
    pub(crate) route: Route,
    ended: AtomicBool,
    open: AtomicU64,
    total: AtomicU64,
}

/// A connection over an entry, as long as it lasts.
#[derive(Debug)]
pub(crate) struct OpenEntry(Arc<Entry>);

impl Names {
    /// Those of a listener, with the entries of `before` that stay as they are. Whether any of them is gone.
    pub(crate) fn new(listener: &Listener, before: &Self) -> (Self, bool) {
        let mut names = Self::default();
        for (name, route) in &listener.names {
            let (map, old, key) = match name.strip_prefix("*.") {
                Some(rest) => (&mut names.wildcards, &before.wildcards, rest),
                None => (&mut names.exact, &before.exact, name.as_str()),
            };
            let entry = Entry::keep(old.get(key), Some(name), route);
            map.insert(key.to_owned(), entry);
        }
        names.fallback = listener
            .fallback
            .as_ref()
            .map(|route| Entry::keep(before.fallback.as_ref(), None, route));
        let mut is_any_gone = false;
        for entry in before.entries() {
            let is_kept = names
                .same(entry)
                .is_some_and(|kept| Arc::ptr_eq(kept, entry));
            if !is_kept {
                entry.ended.store(true, Ordering::Relaxed);
                is_any_gone = true;
            }
        }
        (names, is_any_gone)
    }

    /// Lets a name lead somewhere, or nowhere. Whether an entry is gone by that.
    pub(crate) fn change(&mut self, name: &str, route: Option<&Route>) -> bool {
        let (map, key) = match name.strip_prefix("*.") {
            Some(rest) => (&mut self.wildcards, rest),
            None => (&mut self.exact, name),
        };
        let before = map.get(key).cloned();
        let after = route.map(|route| Entry::keep(before.as_ref(), Some(&name.to_owned()), route));
        let gone = before
            .filter(|before| !(after.as_ref()).is_some_and(|after| Arc::ptr_eq(before, after)));
        match after {
            Some(after) => map.insert(key.to_owned(), after),
            None => map.remove(key),
        };
        if let Some(gone) = &gone {
            gone.ended.store(true, Ordering::Relaxed);
        }
        gone.is_some()
    }

    /// Exactly, then by the wildcard of one label, then the fallback.
    pub(crate) fn find(&self, name: Option<&str>) -> Option<&Arc<Entry>> {
        let named = name.and_then(|name| {
            self.exact.get(name).or_else(|| {
                let (_, rest) = name.split_once('.')?;
                self.wildcards.get(rest)
            })
        });
        named.or(self.fallback.as_ref())
    }

    /// The entry with this name, as it is in the table.
    pub(crate) fn named(&self, name: Option<&str>) -> Option<&Arc<Entry>> {
        match name {
            None => self.fallback.as_ref(),
            Some(name) => match name.strip_prefix("*.") {
                Some(rest) => self.wildcards.get(rest),
                None => self.exact.get(name),
            },
        }
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        let named = self.exact.values().chain(self.wildcards.values());
        named.chain(&self.fallback)
    }

    fn same(&self, entry: &Entry) -> Option<&Arc<Entry>> {
        self.named(entry.name.as_deref())
    }
}

impl Entry {
    fn keep(before: Option<&Arc<Self>>, name: Option<&String>, route: &Route) -> Arc<Self> {
        match before {
            Some(before) if before.route == *route => Arc::clone(before),
            Some(_) | None => Arc::new(Self {
                name: name.cloned(),
                route: route.clone(),
                ended: AtomicBool::new(false),
                open: AtomicU64::new(0),
                total: AtomicU64::new(0),
            }),
        }
    }

    /// Whether it is no longer in the table, so that its connections have to end.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    pub(crate) fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    pub(crate) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

impl OpenEntry {
    pub(crate) fn new(entry: Arc<Entry>) -> Self {
        entry.open.fetch_add(1, Ordering::Relaxed);
        entry.total.fetch_add(1, Ordering::Relaxed);
        Self(entry)
    }
}

impl Deref for OpenEntry {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.0
    }
}

impl Drop for OpenEntry {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Service, Target};

    fn listener(names: &[(&str, u16)], fallback: Option<u16>) -> Listener {
        let route = |port: u16| Route::Device(Target::transparent(([10, 59, 0, 2], port).into()));
        Listener {
            address: "203.0.113.1:443".parse().unwrap(),
            service: Service::Tls,
            names: names
                .iter()
                .map(|(name, port)| ((*name).to_owned(), route(*port)))
                .collect(),
            fallback: fallback.map(route),
        }
    }

    fn found(names: &Names, name: Option<&str>) -> Option<String> {
        let entry = names.find(name)?;
        Some(entry.name.clone().unwrap_or_else(|| "fallback".to_owned()))
    }

    #[test]
    fn exact_names_come_before_wildcards_of_one_label_before_the_fallback() {
        let listed = [("a.example", 1), ("*.example", 2), ("*.b.example", 3)];
        let (names, _) = Names::new(&listener(&listed, None), &Names::default());
        for (asked, answer) in [
            ("a.example", Some("a.example")),
            ("b.example", Some("*.example")),
            ("c.b.example", Some("*.b.example")),
            ("d.c.b.example", None),
            ("x.a.example", None),
            ("example", None),
        ] {
            assert_eq!(found(&names, Some(asked)).as_deref(), answer, "{asked}");
        }
        assert_eq!(found(&names, None), None);
        let (names, _) = Names::new(&listener(&listed, Some(9)), &names);
        assert_eq!(found(&names, Some("example")).unwrap(), "fallback");
        assert_eq!(found(&names, None).unwrap(), "fallback");
    }

    #[test]
    fn entries_that_stay_as_they_are_stay_and_the_others_end() {
        let first = listener(
            &[("a.example", 1), ("b.example", 2), ("c.example", 3)],
            None,
        );
        let (before, is_any_gone) = Names::new(&first, &Names::default());
        assert!(!is_any_gone);
        let second = listener(&[("a.example", 1), ("b.example", 9)], None);
        let (after, is_any_gone) = Names::new(&second, &before);
        assert!(is_any_gone);
        let ended = |name| before.find(Some(name)).unwrap().is_ended();
        assert!(!ended("a.example") && ended("b.example") && ended("c.example"));
        let kept = after.find(Some("a.example")).unwrap();
        assert!(Arc::ptr_eq(kept, before.find(Some("a.example")).unwrap()));
        assert!(!after.find(Some("b.example")).unwrap().is_ended());
        assert!(!Names::new(&second, &after).1);
    }

    #[test]
    fn names_that_are_changed_are_those_of_a_new_table() {
        let first = listener(
            &[("a.example", 1), ("*.example", 2), ("c.example", 3)],
            Some(9),
        );
        let (mut names, _) = Names::new(&first, &Names::default());
        let before = names.clone();
        let to = |port: u16| Route::Device(Target::transparent(([10, 59, 0, 2], port).into()));
        assert!(!names.change("a.example", Some(&to(1))));
        assert!(!names.change("d.example", Some(&to(4))));
        assert!(!names.change("nobody.example", None));
        assert!(names.change("*.example", Some(&to(5))));
        assert!(names.change("c.example", None));
        for (asked, leads_to, is_ended) in [
            ("a.example", Some(1), false),
            ("c.example", Some(5), true),
            ("d.example", Some(4), true),
            ("x.example", Some(5), true),
            ("elsewhere", Some(9), false),
        ] {
            let found = names.find(Some(asked)).map(|entry| entry.route.clone());
            assert_eq!(found, leads_to.map(to), "{asked}");
            assert_eq!(
                before.find(Some(asked)).unwrap().is_ended(),
                is_ended,
                "{asked}"
            );
        }
        let kept = names.find(Some("a.example")).unwrap();
        assert!(Arc::ptr_eq(kept, before.find(Some("a.example")).unwrap()));
    }
}
