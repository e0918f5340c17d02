//! Repository chores: layout checks.

fn main() {}
