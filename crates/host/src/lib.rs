//! Observes, reconciles and applies on this Linux host.
