//! The function `onboard`: holds a launching instance until Puppet knows it and it can serve, then completes the action.

use stagedoor_controller::Function;

fn main() -> anyhow::Result<()> {
    stagedoor_functions::serve(Function::Onboard)
}
