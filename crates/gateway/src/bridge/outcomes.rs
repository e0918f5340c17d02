//! What the kernel did not take, by revision: those who wait for a revision hear of its own steps only.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use adit_model::problem::Problem;

/// How many outcomes are known that are unlike the one before; of those that are alike, any number.
const REMEMBERED: usize = 2048;

/// What came of the revisions.
#[derive(Debug, Default)]
pub(crate) struct Outcomes(VecDeque<Outcome>);

/// What came of revisions that follow each other.
#[derive(Debug)]
struct Outcome {
    revisions: RangeInclusive<u64>,
    problems: Vec<Problem>,
}

impl Outcomes {
    /// A revision was applied, and with it all before it that were not. What a revision led to when it was applied again is
    /// not its own.
    pub(super) fn add(&mut self, revision: u64, problems: Vec<Problem>) {
        let first = match self.0.back_mut() {
            Some(last) if *last.revisions.end() >= revision => return,
            Some(last) if last.problems == problems => {
                last.revisions = *last.revisions.start()..=revision;
                return;
            }
            Some(last) => last.revisions.end() + 1,
            None => 0,
        };
        self.0.push_back(Outcome {
            revisions: first..=revision,
            problems,
        });
        if self.0.len() > REMEMBERED {
            self.0.pop_front();
        }
    }

    /// Forgets the problems of whose kind there is none any more.
    pub(super) fn settle(&mut self, standing: &[Problem]) {
        if self.0.iter().all(|outcome| outcome.problems.is_empty()) {
            return;
        }
        for outcome in std::mem::take(&mut self.0) {
            let mut problems = outcome.problems;
            problems.retain(|problem| standing.iter().any(|it| it.code == problem.code));
            let (first, last) = outcome.revisions.into_inner();
            match self.0.back_mut() {
                Some(before) if before.problems == problems => {
                    before.revisions = *before.revisions.start()..=last;
                }
                Some(_) | None => self.0.push_back(Outcome {
                    revisions: first..=last,
                    problems,
                }),
            }
        }
    }

    /// What of a revision is still not as it is to be.
    pub(super) fn problems(&self, revision: u64) -> Vec<Problem> {
        let place = (self.0).partition_point(|outcome| *outcome.revisions.end() < revision);
        let outcome = self.0.get(place);
        outcome.map_or(Vec::new(), |outcome| outcome.problems.clone())
    }

    /// The revisions of which the kernel does not have all.
    pub(super) fn failing(&self) -> Vec<RangeInclusive<u64>> {
        let failing = self.0.iter().filter(|it| !it.problems.is_empty());
        failing.map(|outcome| outcome.revisions.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(code: &str, object: &str) -> Problem {
        Problem {
            code: code.to_owned(),
            object: object.to_owned(),
            message: String::new(),
            fix: String::new(),
        }
    }

    #[test]
    fn a_revision_fails_for_as_long_as_what_it_met_stands() {
        let firewall = problem("firewall-failed", "table");
        let route = problem("route-failed", "10.59.0.2");
        let mut outcomes = Outcomes::default();
        outcomes.add(3, Vec::new());
        outcomes.add(4, Vec::new());
        assert!(outcomes.failing().is_empty() && outcomes.0.len() == 1);
        outcomes.add(7, vec![firewall.clone()]);
        outcomes.add(7, Vec::new());
        outcomes.add(9, vec![route.clone()]);
        outcomes.add(10, Vec::new());
        let standing = [firewall.clone(), problem("route-failed", "10.59.0.3")];
        outcomes.settle(&standing);
        assert_eq!(outcomes.failing(), [5..=7, 8..=9]);
        assert_eq!(outcomes.problems(5), [firewall]);
        assert_eq!(outcomes.problems(9), [route]);
        assert!(outcomes.problems(4).is_empty() && outcomes.problems(10).is_empty());
        assert!(outcomes.problems(11).is_empty());
        outcomes.settle(&standing[1..]);
        assert_eq!(outcomes.failing(), [8..=9]);
        outcomes.settle(&[]);
        assert!(outcomes.failing().is_empty() && outcomes.0.len() == 1);
        outcomes.add(11, Vec::new());
        assert_eq!(outcomes.0.len(), 1);
    }

    #[test]
    fn only_so_many_unlike_ones_are_known() {
        let mut outcomes = Outcomes::default();
        for revision in 0..5000 {
            outcomes.add(
                revision,
                vec![problem("peer-failed", &revision.to_string())],
            );
        }
        assert_eq!(outcomes.0.len(), REMEMBERED);
        assert_eq!(outcomes.failing().len(), REMEMBERED);
        let oldest = outcomes.problems(7);
        assert_eq!(oldest[0].object, (5000 - REMEMBERED).to_string());
    }
}
