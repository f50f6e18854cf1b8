//! The built functions under cargo-lambda: its Lambda Runtime API and `cargo lambda invoke`, as operators use it. Runs programs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::peak_memory;

/// How long one invocation may take, the start of the function included: longer than the budget of any function here.
const LONGEST_INVOCATION: Duration = Duration::from_secs(200);
/// How long cargo-lambda may take until it listens.
const LONGEST_START: Duration = Duration::from_secs(60);

/// A running `cargo lambda watch --only-lambda-apis`, and the functions that were invoked so far, which are programs that are built
/// already. Dropping it ends all of them.
pub struct CargoLambda {
    program: PathBuf,
    functions: PathBuf,
    environment: BTreeMap<String, String>,
    port: u16,
    watch: Child,
    running: Mutex<BTreeMap<String, Child>>,
    log: Arc<Mutex<String>>,
}

impl CargoLambda {
    /// Starts it. `program` is `cargo-lambda`, `functions` the directory of the built functions, `environment` what they get
    /// besides what Lambda sets.
    ///
    /// # Errors
    /// The program does not start, or does not listen within a minute.
    pub async fn start(
        program: PathBuf,
        functions: PathBuf,
        environment: BTreeMap<String, String>,
    ) -> anyhow::Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new(&program);
        command.args(["lambda", "watch", "--only-lambda-apis", "--invoke-address", "127.0.0.1"]);
        command.args(["--invoke-port", &port.to_string(), "--color", "never"]);
        // It asks cargo for the workspace, of which it starts nothing.
        command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR"))).kill_on_drop(true);
        let log = Arc::default();
        let watch = spawn(&mut command, &log).with_context(|| format!("{} does not start", program.display()))?;
        let running = Mutex::default();
        let mut started = Self { program, functions, environment, port, watch, running, log };
        let until = Instant::now() + LONGEST_START;
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            let ended = started.watch.try_wait()?;
            ensure!(ended.is_none(), "cargo lambda watch has ended: {ended:?}\n{}", started.log());
            ensure!(Instant::now() < until, "cargo lambda watch does not listen\n{}", started.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(started)
    }

    /// Invokes a function with the event in this file, as `cargo lambda invoke NAME --data-file FILE`: its answer.
    ///
    /// # Errors
    /// The function does not start, or its answer does not come within 200 s, is an error, or is not JSON. The message holds the log.
    pub async fn invoke(&self, function: &str, event: &Path) -> anyhow::Result<Value> {
        self.run(function)?;
        let mut command = Command::new(&self.program);
        command.args(["lambda", "invoke", function, "--invoke-address", "127.0.0.1"]);
        command.args(["--invoke-port", &self.port.to_string(), "--data-file"]).arg(event);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::select! {
            biased;
            output = tokio::time::timeout(LONGEST_INVOCATION, command.output()) => output,
            status = self.ended(function) => anyhow::bail!("{function} has ended: {status}\n{}", self.log()),
        };
        let Output { status, stdout, stderr } =
            output.with_context(|| format!("no answer after {LONGEST_INVOCATION:?}\n{}", self.log()))??;
        let answer = String::from_utf8_lossy(&stdout);
        let trouble = || format!("{}{answer}\n{}", String::from_utf8_lossy(&stderr), self.log());
        ensure!(status.success(), "cargo lambda invoke failed: {}", trouble());
        serde_json::from_str(&answer).with_context(trouble)
    }

    /// Everything that cargo-lambda and the functions have written so far.
    #[must_use]
    pub fn log(&self) -> String {
        lock(&self.log).clone()
    }

    /// The most memory that a function has had so far, in MiB; see [`peak_memory`].
    ///
    /// # Errors
    /// The function does not run.
    pub fn peak_memory(&self, function: &str) -> anyhow::Result<u64> {
        peak_memory(lock(&self.running).get(function).with_context(|| format!("{function} does not run"))?)
    }

    /// Waits until the function has ended, which it does when it cannot start.
    async fn ended(&self, function: &str) -> ExitStatus {
        loop {
            if let Some(Ok(Some(status))) = lock(&self.running).get_mut(function).map(Child::try_wait) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Starts the function, unless it runs.
    fn run(&self, function: &str) -> anyhow::Result<()> {
        let mut running = lock(&self.running);
        if running.contains_key(function) {
            return Ok(());
        }
        let program = self.functions.join(function);
        let mut command = Command::new(&program);
        command.env_clear().envs(&self.environment).kill_on_drop(true);
        command.env("AWS_LAMBDA_RUNTIME_API", format!("http://127.0.0.1:{}/.rt/{function}", self.port));
        command.env("AWS_LAMBDA_FUNCTION_NAME", function);
        command.env("AWS_LAMBDA_FUNCTION_VERSION", "1");
        command.env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256");
        let child = spawn(&mut command, &self.log)
            .with_context(|| format!("{} does not start; has the workspace been built?", program.display()))?;
        running.insert(function.to_owned(), child);
        Ok(())
    }
}

/// Starts a program whose output is collected.
fn spawn(command: &mut Command, log: &Arc<Mutex<String>>) -> anyhow::Result<Child> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    collect(log, child.stdout.take().context("its output")?);
    collect(log, child.stderr.take().context("its errors")?);
    Ok(child)
}

fn collect(log: &Arc<Mutex<String>>, stream: impl AsyncRead + Send + Unpin + 'static) {
    let log = Arc::clone(log);
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let mut log = lock(&log);
            log.push_str(&line);
            log.push('\n');
        }
    });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
