//! What the documents say is typed, is typed, and prints what they say.

use std::{fs, path::Path, process::Command};

use regex::Regex;

use super::User;
use crate::support::on_a_thread;

/// A command of a document, and what it is said to print.
struct Step {
    line: usize,
    command: String,
    printed: String,
}

/// The blocks that are marked as `console`: commands behind `$ `, each with its output below it.
fn steps(document: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut is_inside = false;
    for (number, line) in document.lines().enumerate() {
        if line.starts_with("```") {
            is_inside = line == "```console";
        } else if is_inside && let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { line: number + 1, command: command.to_owned(), printed: String::new() });
        } else if is_inside && let Some(step) = steps.last_mut() {
            step.printed.push_str(line);
            step.printed.push('\n');
        }
    }
    steps
}

/// Without what differs from run to run, and with single spaces.
fn plain(text: &str) -> String {
    let rules = [
        (r"job-[0-9a-f]{8,32}", "job-ID"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME"),
        (r"\b\d+(\.\d+)?s\b", "SPAN"),
        (r"[ ]+", " "),
    ];
    let text = rules.iter().fold(text.to_owned(), |text, (pattern, word)| {
        Regex::new(pattern).expect("the pattern is well-formed").replace_all(&text, *word).into_owned()
    });
    text.trim_end().to_owned()
}

fn sorted(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

fn matches(wanted: &str, printed: &str) -> bool {
    let pattern = regex::escape(&plain(wanted)).replace(r"\.\.", ".*");
    let pattern = Regex::new(&format!("^{pattern}$")).expect("it is escaped");
    pattern.is_match(&plain(printed))
}

/// It uses the port of the documents, so it is run only where that is free: by the gate.
#[test]
fn what_the_documents_say_is_typed_prints_what_they_say() {
    if std::env::var_os("PROSCENIUM_DOCUMENTS").is_none() {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = Path::new(env!("CARGO_BIN_EXE_proscenium")).parent().expect("a program is in a folder");
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let mut wrong = Vec::new();
    for document in ["README.md", "OPERATIONS.md"] {
        let user = User::new();
        let text = fs::read_to_string(root.join(document)).expect("the document is there");
        for Step { line, command, printed: wanted } in steps(&text) {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("{command} 2>&1")]).current_dir(root);
            shell.env("PATH", &path).env("PROSCENIUM_HOME", user.home.path());
            let output = on_a_thread(&command, move || shell.output()).expect("there is a shell");
            let mut printed = String::from_utf8(output.stdout).expect("it is text");
            if let Some(code) = output.status.code().filter(|code| *code != 0) {
                printed.push_str(&format!("[exit code {code}]\n"));
            }
            // What a filter lets through of an output of many tasks has no order.
            let is_same = matches(&wanted, &printed) || command.contains('|') && sorted(&wanted) == sorted(&printed);
            if !is_same {
                wrong.push(format!("{document}:{line}: {command}\nwanted\n{wanted}\nprinted\n{printed}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n----\n"));
}

#[test]
fn the_reader_of_documents_finds_what_is_wrong() {
    let steps = steps("text\n```console\n$ a b\nx ..\ny\n$ c\n```\n```text\n$ d\n```\n");
    let found: Vec<_> = steps.iter().map(|step| (&*step.command, &*step.printed)).collect();
    assert_eq!(found, [("a b", "x ..\ny\n"), ("c", "")]);
    assert!(matches("x ..\ny\n", "x 1 2\ny\n"));
    assert!(matches("job-0123abcd  1.5s", "job-99999999 20s\n"));
    assert!(!matches("x ..\ny\n", "x 1\nz\n"));
    assert!(!matches("x", "x\ny"));
}
