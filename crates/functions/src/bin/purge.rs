//! The function `purge`: makes Puppet forget an instance that leaves, proves it, and lets the instance go.

use stagedoor_controller::Function;

fn main() -> anyhow::Result<()> {
    stagedoor_functions::serve(Function::Purge)
}
