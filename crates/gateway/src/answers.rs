//! What was answered to changes that their callers gave a key: a request that is repeated is told the same, and nothing is
//! done twice.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adit_store::answer::{Answer, KEPT, LIFETIME};

use crate::writer::Committed;

/// A change that its caller may ask for again.
pub(crate) struct Repeatable {
    /// Names the attempt.
    pub(crate) key: String,
    /// What is asked for; under the same key nothing else may be.
    pub(crate) request: String,
    /// What will be told, as JSON. It is kept, so there are no secrets in it.
    pub(crate) tell: Box<dyn FnOnce(&Committed) -> String + Send>,
}

impl fmt::Debug for Repeatable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.key)
    }
}

/// The answers of the last day. The writer adds to them what it committed, listeners look there first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    by_key: HashMap<String, Arc<Answer>>,
    /// The oldest first.
    order: VecDeque<Arc<Answer>>,
}

impl Answers {
    /// Those that were stored, the oldest first.
    pub(crate) fn new(stored: Vec<Answer>) -> Self {
        let answers = Self::default();
        for answer in stored {
            answers.add(answer);
        }
        answers
    }

    pub(crate) fn get(&self, key: &str, now: u64) -> Option<Arc<Answer>> {
        let kept = self.kept();
        let answer = kept.by_key.get(key)?;
        (answer.time.saturating_add(LIFETIME) > now).then(|| Arc::clone(answer))
    }

    pub(crate) fn add(&self, answer: Answer) {
        let mut kept = self.kept();
        let answer = Arc::new(answer);
        kept.by_key.insert(answer.key.clone(), Arc::clone(&answer));
        kept.order.push_back(answer);
        while kept.order.len() > KEPT {
            let Some(oldest) = kept.order.pop_front() else {
                return;
            };
            let is_present = |present: &Arc<Answer>| Arc::ptr_eq(present, &oldest);
            if kept.by_key.get(&oldest.key).is_some_and(is_present) {
                kept.by_key.remove(&oldest.key);
            }
        }
    }

    /// Nothing is left half done by who panics while holding it.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(key: usize, time: u64) -> Answer {
        Answer {
            key: key.to_string(),
            request: "request".to_owned(),
            time,
            body: "{}".to_owned(),
        }
    }

    #[test]
    fn answers_last_a_day_and_are_bounded() {
        let answers = Answers::new(vec![answer(0, 5)]);
        assert!(answers.get("0", 4 + LIFETIME).is_some());
        assert!(answers.get("0", 5 + LIFETIME).is_none());
        // The same key, a day later.
        answers.add(answer(0, 5 + LIFETIME));
        assert!(answers.get("0", 6 + LIFETIME).is_some());
        for key in 1..KEPT {
            answers.add(answer(key, 6 + LIFETIME));
        }
        assert!(answers.get("0", 7 + LIFETIME).is_some());
        answers.add(answer(KEPT, 7 + LIFETIME));
        assert!(answers.get("0", 7 + LIFETIME).is_none());
        assert!(answers.get("1", 7 + LIFETIME).is_some());
        assert_eq!(answers.kept().by_key.len(), KEPT);
    }
}
