//! What all kinds of objects share: how they are listed, shown, added, changed and removed.

use std::sync::Arc;

use adit_api::types::page::LARGEST;
use adit_model::change::Change;
use adit_model::edit::{Edit, Key};
use adit_model::refusal::Refusal;
use adit_model::state::{Device, State};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;

use super::answer::{Answer, Failure, removed, vanished};
use super::guard::not_allowed;
use super::request::{Terms, invalid};
use crate::caller::Caller;
use crate::control::{Committed, Control, Snapshot};
use crate::writer::seconds_since_1970;

/// A kind of object that is listed and has ids.
pub(super) trait Kind: Sized + 'static {
    /// What is shown of one.
    type View: Serialize;

    /// The word for one.
    const NAME: &'static str;
    /// The path of the list.
    const PATH: &'static str;

    fn find<'a>(state: &'a State, reference: &str) -> Result<&'a Self, Refusal>;

    /// All of them, in the order of their ids.
    fn all(state: &State) -> impl Iterator<Item = &Self>;

    fn key(&self) -> Key;

    fn view(&self, snapshot: &Snapshot) -> Self::View;

    /// Other objects that the view tells of.
    fn others(&self, state: &State) -> Vec<Key>;
}

/// For whom an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// The one who made the change, now.
    Caller,
    /// The one who asks again, whenever that is: without secrets, since it is kept until then.
    Record,
}

/// The part of a list that was asked for.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) limit: Option<u16>,
    pub(super) after: Option<u64>,
    /// A further parameter, and the id that it names.
    pub(super) filter: Option<(&'static str, u64)>,
}

impl Page {
    /// Takes the part out of the list, and the path of what follows.
    pub(super) fn cut<'a, K: Kind>(
        &self,
        state: &'a State,
        keep: impl Fn(&K) -> bool,
    ) -> Result<(Vec<&'a K>, Option<String>), Failure> {
        let limit = match self.limit {
            None => usize::MAX,
            Some(limit) if (1..=LARGEST).contains(&limit) => limit.into(),
            Some(limit) => {
                let detail = format!("`limit`: {limit} is not 1 to {LARGEST}");
                return Err(invalid(detail).into());
            }
        };
        let after = self.after;
        if after.is_some_and(|after| i64::try_from(after).is_err()) {
            return Err(invalid("`after`: no id is that great").into());
        }
        let mut rest = K::all(state)
            .filter(|object| after.is_none_or(|after| object.key().id() > after))
            .filter(|object| keep(object));
        let objects: Vec<&K> = rest.by_ref().take(limit).collect();
        let last = objects.last().filter(|_| rest.next().is_some());
        let next = last.map(|last| {
            let mut path = format!(
                "{}{}?limit={limit}&after={}",
                super::PREFIX,
                K::PATH,
                last.key().id()
            );
            if let Some((name, id)) = self.filter {
                path = format!("{path}&{name}={id}");
            }
            path
        });
        Ok((objects, next))
    }
}

/// A part of a list of objects and leases, in the order of their ids; and the path of what follows.
pub(super) fn merged<V>(
    page: &Page,
    path: &'static str,
    (objects, next): (Vec<(u64, V)>, Option<String>),
    leases: impl Iterator<Item = (u64, V)>,
) -> (Vec<V>, Option<String>) {
    let limit = page.limit.map_or(usize::MAX, usize::from);
    let after = page.after;
    let leases = leases
        .filter(|(id, _)| after.is_none_or(|after| *id > after))
        .take(limit.saturating_add(1));
    let mut all: Vec<(u64, V)> = objects.into_iter().chain(leases).collect();
    all.sort_by_key(|(id, _)| *id);
    let is_more = all.len() > limit || next.is_some();
    all.truncate(limit);
    let last = all.last().map(|(id, _)| *id).filter(|_| is_more);
    let next = last.map(|last| {
        let mut path = format!("{}{path}?limit={limit}&after={last}", super::PREFIX);
        if let Some((name, id)) = page.filter {
            path = format!("{path}&{name}={id}");
        }
        path
    });
    (all.into_iter().map(|(_, view)| view).collect(), next)
}

/// The device that a caller names, where it is the caller's to see.
pub(super) fn visible_device<'a>(
    state: &'a State,
    caller: &Caller,
    reference: &str,
) -> Result<&'a Device, Failure> {
    let device = state.device(reference);
    if caller.device().is_none() {
        return Ok(device?);
    }
    // What is not there is refused as what is another's.
    device
        .ok()
        .filter(|device| caller.sees(device.id))
        .ok_or_else(not_allowed)
}

/// Shows one object, or says that the caller has it already.
pub(super) fn show<K: Kind>(
    snapshot: &Snapshot,
    terms: &Terms,
    reference: &str,
) -> Result<Response, Failure> {
    let object = K::find(&snapshot.state, reference)?;
    answer(snapshot, terms, object, &object.view(snapshot))
}

/// Shows what is told of one object.
pub(super) fn answer<K: Kind>(
    snapshot: &Snapshot,
    terms: &Terms,
    object: &K,
    view: &impl Serialize,
) -> Result<Response, Failure> {
    let state = &snapshot.state;
    let key = object.key();
    if let Some(expected) = terms.conditions.expected(key) {
        expected.check(state)?;
    }
    let answer = Answer::of(state.version(key), view)?;
    if terms.conditions.is_known(state, key, &object.others(state)) {
        return Ok(answer.unchanged());
    }
    Ok(answer.into_response())
}

/// Adds one object.
pub(super) async fn add<K: Kind>(
    control: &Control,
    terms: Terms,
    change: Change,
) -> Result<Answer, Failure> {
    let base = control.snapshot();
    make(
        control,
        terms,
        change,
        None,
        base,
        |snapshot, committed, _| {
            let object = added::<K>(committed)?;
            let answer = Answer::of(snapshot.state.version(object.key()), &object.view(snapshot))?;
            Ok(answer.created(K::PATH, object.key().id()))
        },
    )
    .await
}

/// Changes one object. `base` is what is shown beside it.
pub(super) async fn set<K: Kind>(
    control: &Control,
    terms: Terms,
    reference: &str,
    change: Change,
    base: Snapshot,
) -> Result<Answer, Failure> {
    let key = K::find(&base.state, reference)?.key();
    make(
        control,
        terms,
        change,
        Some(key),
        base,
        move |snapshot, _, _| {
            let state = &snapshot.state;
            let object = K::find(state, &key.id().to_string()).map_err(|_| vanished(K::NAME))?;
            Answer::of(state.version(key), &object.view(snapshot))
        },
    )
    .await
}

/// Removes one object, and tells what went along.
pub(super) async fn remove<K: Kind>(
    control: &Control,
    terms: Terms,
    reference: &str,
    change: Change,
) -> Result<Answer, Failure> {
    let base = control.snapshot();
    let key = K::find(&base.state, reference)?.key();
    make(
        control,
        terms,
        change,
        Some(key),
        base,
        move |_, committed, _| Answer::of(None, &removed(committed, |other| other == key)),
    )
    .await
}

/// Makes a change on a caller's terms, where there is an object on condition that it is what the caller saw.
pub(super) async fn make(
    control: &Control,
    terms: Terms,
    change: Change,
    key: Option<Key>,
    base: Snapshot,
    tell: impl Fn(&Snapshot, &Committed, Audience) -> Result<Answer, Failure> + Send + Sync + 'static,
) -> Result<Answer, Failure> {
    let expected = key.and_then(|key| terms.conditions.expected(key));
    let tell = Arc::new(
        move |snapshot: &Snapshot, committed: &Committed, audience| {
            let answer = tell(snapshot, committed, audience)?;
            Ok::<_, Failure>(answer.awaiting(committed, seconds_since_1970()))
        },
    );
    let repeatable = terms.attempt.map(|attempt| {
        let (base, tell) = (base.clone(), Arc::clone(&tell));
        attempt
            .repeatable(move |committed| tell(&base.after(committed), committed, Audience::Record))
    });
    let committed = control
        .change_once(change, terms.caller, expected, terms.confirm, repeatable)
        .await?;
    tell(&base.after(&committed), &committed, Audience::Caller)
}

/// The object of a kind that a change added.
pub(super) fn added<K: Kind>(committed: &Committed) -> Result<&K, Failure> {
    let state = &committed.state;
    committed
        .edits
        .iter()
        .filter(|edit| matches!(edit, Edit::Set(_)))
        .filter_map(|edit| {
            K::find(state, &edit.key().id().to_string())
                .ok()
                .filter(|object| object.key() == edit.key())
        })
        .next()
        .ok_or_else(|| vanished(K::NAME))
}
