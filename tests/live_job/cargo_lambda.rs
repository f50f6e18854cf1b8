//! `cargo lambda watch` with the release build of the functions, and `cargo lambda invoke`. Runs programs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::text;
use crate::rehearsal::repository;

/// How long one invocation may take, the start of the function included: longer than any budget that tests give.
const PATIENCE: Duration = Duration::from_secs(200);

/// Which build of the functions: other packages or features beside it, and cargo would compile the EC2 SDK once more.
const RELEASE: [&str; 3] = ["--release", "--package", "stagedoor-functions"];

/// Made before anything is invoked: the time that an invocation has is not for compiling.
static BUILT: LazyLock<()> = LazyLock::new(|| {
    let mut command = std::process::Command::new("cargo");
    without_foreign_variables(&mut command);
    let built = command.args(["build", "--locked"]).args(RELEASE).current_dir(repository()).status();
    assert!(built.expect("cargo runs").success(), "the functions could not be built");
});

/// A running `cargo lambda watch`. Dropping it ends it and the functions it has started.
pub(super) struct CargoLambda {
    program: PathBuf,
    watch: Child,
    port: u16,
    log: Arc<Mutex<String>>,
}

impl CargoLambda {
    /// Starts it with this environment for the functions, which it runs when they are first invoked.
    pub(super) async fn watch(environment: &BTreeMap<String, String>) -> Self {
        LazyLock::force(&BUILT);
        let program = program().await;
        let port = free_port().await;
        let mut command = Command::new(&program);
        without_foreign_variables(command.as_std_mut());
        command.args(["lambda", "watch", "--ignore-changes", "--wait", "--invoke-address", "127.0.0.1"]);
        command.args(["--invoke-port", &port.to_string()]);
        command.args(["--color", "never"]).args(RELEASE);
        // As talkative as it can be: what it must not tell has to stay out of that too. Cargo-lambda itself need not be.
        command.args(["--env-var", "RUST_LOG=trace"]);
        command.current_dir(repository()).process_group(0).kill_on_drop(true).envs(environment);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut watch = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let log = Arc::default();
        collect(&log, watch.stdout.take().expect("piped"));
        collect(&log, watch.stderr.take().expect("piped"));
        let mut cargo_lambda = Self { program, watch, port, log };
        cargo_lambda.wait_until_it_listens().await;
        cargo_lambda
    }

    async fn wait_until_it_listens(&mut self) {
        let until = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            let ended = self.watch.try_wait().expect("its status");
            assert!(ended.is_none(), "cargo lambda watch has ended: {ended:?}\n{}", self.log());
            assert!(Instant::now() < until, "cargo lambda watch does not listen after 60 s\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Invokes the function of this name with an event and takes its answer.
    pub(super) async fn invoke(&self, function: &str, event: &Value) -> Value {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), event.to_string()).expect("the event is written");
        let mut command = Command::new(&self.program);
        command.args(["lambda", "invoke", function, "--invoke-address", "127.0.0.1"]);
        command.args(["--invoke-port", &self.port.to_string(), "--data-file"]).arg(file.path());
        command.current_dir(repository()).stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await;
        let output = output.unwrap_or_else(|_| panic!("no answer after {PATIENCE:?}\n{}", self.log()));
        let output = output.expect("cargo lambda invoke runs");
        assert!(output.status.success(), "{}\n{}", text(&output), self.log());
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}\n{}", text(&output), self.log()))
    }

    /// Everything that it and its functions have written so far.
    pub(super) fn log(&self) -> String {
        self.log.lock().expect("not poisoned").clone()
    }
}

impl Drop for CargoLambda {
    fn drop(&mut self) {
        let Some(process) = self.watch.id() else { return };
        // Cargo and the function are in process groups of their own; only cargo-lambda knows them, and ends them when it is
        // asked to end.
        let _ = std::process::Command::new("kill").args(["-TERM", &process.to_string()]).status();
        let until = Instant::now() + Duration::from_secs(5);
        while matches!(self.watch.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Takes away what cargo tells this test about itself, which would have build scripts run again, and what AWS tools would
/// read; but not what decides how aws-lc is built.
fn without_foreign_variables(command: &mut std::process::Command) {
    for (name, _) in std::env::vars() {
        let by_cargo = name == "CARGO" || name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        let for_aws = name.starts_with("AWS_") && !name.starts_with("AWS_LC_");
        if by_cargo || for_aws || name == "LD_LIBRARY_PATH" || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
}

/// `tools/cargo-lambda` installs it where it is missing, and says where it is.
async fn program() -> PathBuf {
    let output = Command::new(repository().join("tools/cargo-lambda")).output().await.expect("tools/cargo-lambda runs");
    assert!(output.status.success(), "cargo-lambda could not be installed:\n{}", text(&output));
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()).join("cargo-lambda")
}

async fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    listener.local_addr().expect("its address").port()
}

fn collect(log: &Arc<Mutex<String>>, stream: impl AsyncRead + Send + Unpin + 'static) {
    let log = Arc::clone(log);
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let mut log = log.lock().expect("not poisoned");
            log.push_str(&line);
            log.push('\n');
        }
    });
}
