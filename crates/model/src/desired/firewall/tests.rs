//! Goldens of the rendered table, and the property that a delta leads where it says.
