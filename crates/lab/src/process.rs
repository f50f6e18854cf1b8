//! What the operating system knows of a function's process.

use anyhow::Context as _;
use tokio::process::Child;

/// The most memory that this process has had so far, in MiB: its peak resident set size
/// ([proc(5)](https://man7.org/linux/man-pages/man5/proc_pid_status.5.html), `VmHWM`).
///
/// # Errors
/// The process has ended.
pub fn peak_memory(process: &Child) -> anyhow::Result<u64> {
    let id = process.id().context("the process has ended")?;
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).context("VmHWM")?;
    let kib: u64 = line.split_whitespace().nth(1).context("a number")?.parse()?;
    Ok(kib.div_ceil(1024))
}
