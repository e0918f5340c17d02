//! What arrives and what does not, and as whom.
