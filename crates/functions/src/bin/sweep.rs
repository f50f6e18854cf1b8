//! The function `sweep`: handles every waiting instance, including those whose event was lost.

use stagedoor_controller::Function;

fn main() -> anyhow::Result<()> {
    stagedoor_functions::serve(Function::Sweep)
}
