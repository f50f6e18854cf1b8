//! The function `onboard`: holds an instance that arrives until Puppet knows it and it can serve, and then lets it in.

use stagedoor_controller::Function;

fn main() -> anyhow::Result<()> {
    stagedoor_functions::serve(Function::Onboard)
}
