//! Loads the state and commits changes.
