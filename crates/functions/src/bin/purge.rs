//! The function `purge`: removes a terminating instance from Puppet, proves the removal, and completes the action.

use stagedoor_controller::Function;

fn main() -> anyhow::Result<()> {
    stagedoor_functions::serve(Function::Purge)
}
