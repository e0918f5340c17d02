//! Places where tests let the daemon fail or die. Without the feature `points` they are nothing, at no cost.

use std::fmt::Display;
use std::io;

#[cfg(feature = "points")]
mod points;

/// The environment variable with the folder that says what happens where; see [`PLAN`] and [`HITS`].
#[cfg(feature = "points")]
pub const ENVIRONMENT: &str = "ADIT_FAULTS";

/// The file in the folder with one fault a line: `ACTION POINT [N]`. The action is `kill` or the name of an error number; with
/// N it happens at the Nth hit only, counted since the file was changed. The point `*` stands for all of them.
#[cfg(feature = "points")]
pub const PLAN: &str = "plan";

/// The file in the folder that gets the name of every point that is hit, one a line.
#[cfg(feature = "points")]
pub const HITS: &str = "hits";

/// A place where the operation that follows may fail.
///
/// # Errors
///
/// What a test wants to happen here.
#[inline]
#[cfg_attr(
    not(feature = "points"),
    expect(unused_variables, reason = "there are no points")
)]
pub fn point(name: impl Display) -> io::Result<()> {
    #[cfg(feature = "points")]
    points::hit(&name.to_string())?;
    Ok(())
}

/// A place where nothing can fail, but the process may die.
#[inline]
#[cfg_attr(
    not(feature = "points"),
    expect(unused_variables, reason = "there are no points")
)]
pub fn passing(name: impl Display) {
    #[cfg(feature = "points")]
    // Only dying makes sense here.
    let _ = points::hit(&name.to_string());
}
