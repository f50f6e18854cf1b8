//! The function `purge`: makes Puppet forget an instance that leaves, proves it, and lets the instance go.

use stagedoor_controller::Function;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    stagedoor_functions::serve(Function::Purge).await
}
