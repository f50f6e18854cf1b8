//! Compilers of Puppet Enterprise from launch to termination, in its topologies: the hosts that a compiler depends on admit it only after
//! they have run Puppet and found its catalog.

mod launching;
mod leaving;
mod stage;
