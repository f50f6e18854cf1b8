//! The function `sweep`: deals with every instance that waits, also when its event was lost.

use stagedoor_controller::Function;

fn main() -> anyhow::Result<()> {
    stagedoor_functions::serve(Function::Sweep)
}
