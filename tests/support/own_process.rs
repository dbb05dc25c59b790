//! Runs a test in a process of its own: for what can be tried once in a process, or may never end.

use std::io::Read;
#[cfg(unix)]
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Longer than any of these tests takes on a busy machine.
const LONGEST: Duration = Duration::from_secs(60);

/// This test executable, to run the one test of that name, which is an ignored one.
pub fn command(test: &str) -> Command {
    with_arguments(Command::new(std::env::current_exe().unwrap()), test)
}

/// The same behind a shell's `ulimit` with these arguments.
pub fn limited(limit: &str, test: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\"")]).arg(std::env::current_exe().unwrap());
    with_arguments(shell, test)
}

fn with_arguments(mut command: Command, test: &str) -> Command {
    // One at a time is run by the process's first thread, and needs no other.
    command.args([test, "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    command
}

/// Runs it, and fails with what it printed unless it passes in time. Returns what it printed.
pub fn passes(mut command: Command) -> String {
    let start = Instant::now();
    // A group of its own, so that what it forked can be ended with it.
    #[cfg(unix)]
    command.process_group(0);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let ended = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status.to_string();
        }
        if start.elapsed() > LONGEST {
            end(&mut child);
            break format!("no end after {LONGEST:?}");
        }
        sleep(Duration::from_millis(5));
    };
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(text.contains("1 passed"), "{command:?}: {ended}\n{text}");
    text
}

fn end(child: &mut Child) {
    #[cfg(unix)]
    let _ = Command::new("sh").args(["-c", &format!("kill -s KILL -- -{}", child.id())]).status();
    let _ = child.kill();
    child.wait().unwrap();
}
