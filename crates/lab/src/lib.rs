//! An Internet in a box: named topologies of network namespaces.
