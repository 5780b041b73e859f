//! `interceptor exec` as a program that starts another: status, signals, terminal, user, and what it leaves.

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use interceptor_tests::{Pod, Running, World, cgroup_root, eventually, wait_for};
use rustix::process::Signal;

#[test]
fn the_exit_status_is_the_commands() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let plain = interceptor_tests::Dir::new()?;
    let not_executable = plain.write("plain", "text")?.display().to_string();
    let rows: [(&[&str], i32); 8] = [
        (&["true"], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "exit 255"], 255),
        (&["sh", "-c", "kill -TERM $$"], 128 + 15),
        (&["sh", "-c", "kill -KILL $$"], 128 + 9),
        (&["no-such-program-anywhere"], 127),
        (&["/nonexistent/program"], 127),
        (&[&not_executable], 126),
    ];
    for (command, code) in rows {
        let run = pod.interceptor()?.run(command)?;
        run.expect_code(code)?;
        if [126, 127].contains(&code) {
            assert!(run.stderr.contains(command[0]), "{command:?}: {}", run.stderr);
        }
    }
    Ok(())
}

#[test]
fn arguments_environment_directory_and_input_arrive() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let interceptor = pod.interceptor()?;
    let directory = interceptor.dir().canonicalize()?;
    let script = "printf '%s|' \"$@\"; echo $MINE; pwd; cat";
    let mut command = interceptor.command(&["sh", "-c", script, "sh", "a b", "--help", "-c", "", "ü"])?;
    command.env("MINE", "yes").current_dir(&directory);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().ok_or_else(|| anyhow::anyhow!("no input"))?.write_all(b"typed")?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text, format!("a b|--help|-c||ü|yes\n{}\ntyped", directory.display()));
    Ok(())
}

/// The kernel breaks off what it does for a process that is stopped, loading a program among it.
#[test]
fn being_stopped_and_continued_while_it_starts_changes_nothing() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let running = pod.interceptor()?.spawn(&["echo", "started"])?;
    let mut stops = 0;
    wait_for("the command to start", Duration::from_secs(30), || {
        if stops < 200 {
            stops += 1;
            // Fails when it has ended.
            drop(running.signal(Signal::STOP).and_then(|()| running.signal(Signal::CONT)));
        }
        (running.stdout() == "started\n").then_some(())
    })?;
    assert!(stops > 3, "{stops} times: it was too fast to be stopped");
    running.finish()?.expect_code(0)?;
    Ok(())
}

#[test]
fn signals_reach_the_command() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
    ] {
        let script =
            format!("trap 'echo got {name}; exit 5' {name}; echo ready; while :; do sleep 0.05; done");
        let running = pod.interceptor()?.spawn(&["sh", "-c", &script])?;
        eventually("the command to be ready", || running.stdout() == "ready\n")?;
        running.signal(signal)?;
        let run = running.finish()?;
        run.expect_code(5)?;
        assert_eq!(run.text(), format!("ready\ngot {name}\n"));
    }
    Ok(())
}

#[test]
fn an_ignored_signal_does_not_end_us() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let script = "trap '' TERM; echo ready; while [ ! -e \"$0\" ]; do sleep 0.05; done; exit 3";
    let interceptor = pod.interceptor()?;
    let file = interceptor.dir().join("go");
    let running = interceptor.spawn(&["sh", "-c", script, &file.display().to_string()])?;
    eventually("the command to be ready", || running.stdout() == "ready\n")?;
    running.signal(Signal::TERM)?;
    std::fs::write(&file, "")?;
    running.finish()?.expect_code(3)?;
    Ok(())
}

/// Runs in a terminal of its own (script(1)), typing `keys` once `ready` is on the screen.
fn in_terminal(pod: &Pod, command: &str, ready: &str, keys: &[u8]) -> anyhow::Result<(Option<i32>, String)> {
    let interceptor = pod.interceptor()?;
    let words = interceptor.command(&["sh", "-c", command])?;
    let quoted: Vec<String> = std::iter::once(words.get_program())
        .chain(words.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''")))
        .collect();
    let mut script = Command::new("timeout");
    script.args(["--foreground", "60", "script"]).args([
        "--quiet",
        "--return",
        "--command",
        &format!("exec {}", quoted.join(" ")),
        "/dev/null",
    ]);
    for (name, value) in words.get_envs() {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    let mut child = script.env("SHELL", "/bin/sh").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut keyboard = child.stdin.take().ok_or_else(|| anyhow::anyhow!("no keyboard"))?;
    let mut screen = child.stdout.take().ok_or_else(|| anyhow::anyhow!("no screen"))?;
    let (mut text, mut typed) = (Vec::new(), false);
    let mut buffer = [0; 1000];
    loop {
        let count = screen.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        text.extend_from_slice(&buffer[..count]);
        if !typed && String::from_utf8_lossy(&text).contains(ready) {
            keyboard.write_all(keys)?;
            typed = true;
        }
    }
    Ok((child.wait()?.code(), String::from_utf8_lossy(&text).into_owned()))
}

#[test]
fn the_terminal_is_the_commands() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let (code, screen) = in_terminal(
        &pod,
        "test -t 0 && test -t 1 && test -t 2 && echo all a tty; read line; echo \"read $line\"; exit 4",
        "all a tty",
        b"hello\n",
    )?;
    assert!(screen.contains("all a tty") && screen.contains("read hello"), "{screen}");
    assert_eq!(code, Some(4), "{screen}");
    Ok(())
}

#[test]
fn control_c_is_for_the_command() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let (code, screen) = in_terminal(
        &pod,
        "trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 0.05; done",
        "ready",
        b"\x03",
    )?;
    assert_eq!((code, screen.matches("interrupted").count()), (Some(9), 1), "{screen}");
    Ok(())
}

#[test]
fn job_control_works_in_a_shell() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    // An interactive shell takes the terminal for itself and hands it to its jobs.
    let (code, screen) = in_terminal(
        &pod,
        "exec sh -i",
        "# ",
        b"set -m; sh -c 'echo in a job' & wait; fg 2>/dev/null; sh -c 'read x; echo job read $x'\nkeys\nexit 6\n",
    )?;
    assert!(screen.contains("in a job") && screen.contains("job read keys"), "{screen}");
    assert_eq!(code, Some(6), "{screen}");
    Ok(())
}

#[test]
fn children_and_threads_are_covered() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let script = "
import threading, os, subprocess
def ask(path):
    s = socket.create_connection(('203.0.113.20', 80), 10)
    s.sendall(b'GET /' + path + b' HTTP/1.1\\r\\nHost: www.google.com\\r\\nConnection: close\\r\\n\\r\\n')
    while s.recv(1000): pass
threads = [threading.Thread(target=ask, args=(b'thread',)) for _ in range(3)]
[t.start() for t in threads]; [t.join() for t in threads]
if not (child := os.fork()):
    os.setsid()
    if not (grandchild := os.fork()): ask(b'grandchild'); os._exit(0)
    os.waitpid(grandchild, 0); ask(b'child'); os._exit(0)
os.waitpid(child, 0)
subprocess.run(['curl', '-sS', '-o', '/dev/null', 'http://www.google.com/curl'], check=True)
";
    let run = pod
        .interceptor()?
        .config(&interceptor_tests::seeds(&["000-01-se-se"])?)?
        .run(&interceptor_tests::python(script)?)?;
    run.expect_code(0)?;
    let mut paths: Vec<String> = run.lines()?.into_iter().map(|line| line.path).collect();
    paths.sort();
    assert_eq!(paths, ["/child", "/curl", "/grandchild", "/thread", "/thread", "/thread"]);
    Ok(())
}

#[test]
fn nobody_else_is_touched() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let mut session = pod.interceptor()?.registry_only().session()?;
    assert_ne!(session.curl("http://www.google.com/")?.0, 0);
    let beside = interceptor_tests::output(pod.command("curl").args(["-sS", "http://www.google.com/"]))?;
    assert_eq!(beside.stdout, b"www.google.com says hello over http\n");
    session.finish()?;
    Ok(())
}

#[test]
fn the_command_runs_as_the_user_who_called_sudo() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let show = "id -u; id -g; id -G; grep CapEff /proc/self/status; curl -sS http://www.google.com/";
    let interceptor = pod.interceptor()?.config(&interceptor_tests::seeds(&["000-01-se-se"])?)?;
    let mut command = interceptor.command(&["sh", "-c", show])?;
    command.env("SUDO_UID", "12345").env("SUDO_GID", "12346");
    let output = interceptor_tests::output(&mut command)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = "12345\n12346\n12346\nCapEff:\t0000000000000000\nwww.google.com says hello over http\n";
    assert_eq!(text, expected);
    let log = std::fs::read_to_string(interceptor.dir().join("access.log"))?;
    assert!(log.contains("outbound|80||www.google.com"), "{log}");
    for (user, shows) in [("nobody", "65534\n65534\n"), ("1234:5678", "1234\n5678\n"), ("0", "0\n0\n")] {
        let run = pod.interceptor()?.flags(&["--user", user]).run(&["sh", "-c", "id -u; id -g"])?;
        run.expect_code(0)?;
        assert_eq!(run.text(), shows, "--user {user}");
    }
    Ok(())
}

/// What CMD says of the cgroup it is in, and the inode that names it in the kernel.
fn cgroup_of(running: &Running) -> anyhow::Result<(PathBuf, u64)> {
    eventually("the command to be ready", || running.stdout().contains("ready\n"))?;
    let text = running.stdout();
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let path = cgroup_root()?.join(path.ok_or_else(|| anyhow::anyhow!("no cgroup v2 in {text}"))?);
    let inode = std::fs::metadata(&path)?.ino();
    Ok((path, inode))
}

/// Whether any process holds a BPF link to this cgroup. Pins hold links too: they would be below /sys/fs/bpf.
fn linked(inode: u64) -> bool {
    let wanted = format!("cgroup_id:\t{inode}\n");
    let infos = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    infos
        .filter_map(|process| std::fs::read_dir(process.path().join("fdinfo")).ok())
        .flatten()
        .filter_map(Result::ok)
        .any(|info| std::fs::read_to_string(info.path()).is_ok_and(|text| text.contains(&wanted)))
}

fn gone(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

const SHOW: &str =
    "cat /proc/self/cgroup; sleep 1000 & echo child $!; (setsid sleep 1001 & echo child $!); echo ready; ";

#[test]
fn nothing_is_left_after_the_end() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let running = pod.interceptor()?.spawn(&[
        "sh",
        "-c",
        &format!("{SHOW} trap 'exit 0' TERM; while :; do sleep 0.05; done"),
    ])?;
    let (path, inode) = cgroup_of(&running)?;
    assert!(linked(inode), "this test must be able to see a link");
    running.signal(Signal::TERM)?;
    let run = running.finish()?;
    run.expect_code(0)?;
    assert!(!path.exists(), "{} is left", path.display());
    assert!(!linked(inode));
    for child in run.text().lines().filter_map(|line| line.strip_prefix("child ")) {
        eventually("background children to be gone", || gone(child))?;
    }
    Ok(())
}

#[test]
fn nothing_is_left_after_sigkill() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let running = pod.interceptor()?.spawn(&["sh", "-c", &format!("{SHOW} echo child $$; sleep 1002")])?;
    let (path, inode) = cgroup_of(&running)?;
    let text = running.stdout();
    running.signal(Signal::KILL)?;
    assert_eq!(running.finish()?.code(), -9);
    for child in text.lines().filter_map(|line| line.strip_prefix("child ")) {
        eventually("the command and its children to be gone", || gone(child))?;
    }
    eventually("the cgroup to be gone", || !path.exists())?;
    eventually("the links to be gone", || !linked(inode))?;
    Ok(())
}

#[test]
fn many_at_once_do_not_meet() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let config = interceptor_tests::seeds(&["001-01-se"])?;
    let mut runs = Vec::new();
    for number in 0..8 {
        let interceptor =
            pod.interceptor()?.config(if number % 2 == 0 { &config } else { "" })?.registry_only();
        runs.push(interceptor.spawn(&["curl", "-sS", "-i", "http://httpbin.org/get"])?);
    }
    for (number, run) in runs.into_iter().enumerate() {
        let run = run.finish()?;
        if number % 2 == 0 {
            assert_eq!(run.http()?.status, 200);
        } else {
            assert!([52, 56].contains(&run.code()), "exit {}", run.code());
        }
        run.line()?;
    }
    Ok(())
}

/// Fails unless it stopped with status 1 before CMD, with one sentence that holds one of these words.
fn assert_cannot(mut command: Command, words: &[&str]) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(output.stdout, b"", "CMD was started");
    assert!(words.iter().any(|word| stderr.contains(word)), "none of {words:?} in {stderr}");
    assert_eq!(stderr.trim_end().lines().count(), 1, "one sentence: {stderr}");
    Ok(())
}

/// The words of an exec command, behind a program that takes something away first.
fn without(pod: &Pod, taking: &[&str], binary: Option<&Path>) -> anyhow::Result<Command> {
    let interceptor = pod.interceptor()?.no_access_log();
    let full = interceptor.command(&["echo", "started"])?;
    let words: Vec<_> = full.get_args().collect();
    // What follows `exec` is ours; what is before is how to get into the pod.
    let at = words.iter().position(|word| *word == "exec").ok_or_else(|| anyhow::anyhow!("no exec"))?;
    let mut command = pod.command(taking[0]);
    command.args(&taking[1..]);
    command.arg(binary.map_or_else(|| words[at - 1].to_owned(), |path| path.as_os_str().to_owned()));
    command.args(["exec", "--", "echo", "started"]);
    Ok(command)
}

#[test]
fn missing_privileges_are_one_sentence_before_the_command() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    // The build directory may be closed to others.
    let dir = interceptor_tests::Dir::new()?;
    let copy = dir.join("interceptor");
    std::fs::copy(interceptor_tests::binary()?, &copy)?;
    let words = &["root", "CAP_", "privilege"];
    assert_cannot(
        without(&pod, &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], Some(&copy))?,
        words,
    )?;
    assert_cannot(without(&pod, &["setpriv", "--bounding-set=-all", "--inh-caps=-all"], None)?, words)?;
    for lost in ["bpf", "net_admin"] {
        let bounding = format!("--bounding-set=-{lost},-sys_admin");
        assert_cannot(without(&pod, &["setpriv", &bounding], None)?, words)?;
    }
    Ok(())
}

#[test]
fn no_cgroup2_is_one_sentence_before_the_command() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let root = cgroup_root()?.display().to_string();
    let script = "umount -l \"$1\" && shift && exec \"$@\"";
    assert_cannot(
        without(&pod, &["unshare", "--mount", "sh", "-c", script, "sh", &root], None)?,
        &["cgroup2", "cgroup v2"],
    )
}

#[test]
fn wrong_usage_is_two() -> anyhow::Result<()> {
    let binary = interceptor_tests::binary()?;
    for args in [&["exec"][..], &["exec", "--no-such-flag", "--", "true"], &["no-such-command"]] {
        let output = Command::new(&binary).args(args).output()?;
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(!output.stderr.is_empty());
    }
    let help = interceptor_tests::output(Command::new(&binary).args(["exec", "--help"]))?;
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for flag in ["--exclude-ip-ranges", "--outbound-traffic-policy", "--external-proxy", "Example"] {
        assert!(help.contains(flag), "no {flag} in --help");
    }
    Ok(())
}
