//! Tests of the derivation.
