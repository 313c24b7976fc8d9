//! Rules about the source itself: who may import whom, how long a file may be, what is named where.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Longest source file, in lines.
const FILE_LINES_MAX: usize = 800;

const SOURCE_EXTENSIONS: [&str; 6] = ["rs", "ts", "tsx", "mjs", "py", "sh"];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 4] = ["utils", "common", "helpers", "misc"];

/// Crates that may name str0m, and the module in which each does.
const STR0M_MODULES: [(&str, &str); 4] = [
    ("sfu/core/src", "sfu/core/src/connection"),
    ("client/src", "client/src/session"),
    ("benches/src", "benches/src/generator"),
    // Measures it beside ours.
    ("benches/src/bin", "benches/src/bin/fanout"),
];

/// What a core must not depend on: it is handed time and datagrams.
const SHELL_CRATES: [&str; 8] =
    ["tokio", "mio", "socket2", "quinn-udp", "zynk-net", "async-std", "smol", "crossbeam-channel"];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files under version control or about to be, as paths from the workspace's root.
fn files() -> Vec<String> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(workspace())
        .output()
        .expect("git runs");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let list = String::from_utf8(output.stdout).unwrap();
    list.lines().filter(|path| workspace().join(path).is_file()).map(str::to_owned).collect()
}

fn extension(path: &str) -> &str {
    Path::new(path).extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

fn source_files() -> Vec<String> {
    let files: Vec<_> =
        files().into_iter().filter(|path| SOURCE_EXTENSIONS.contains(&extension(path))).collect();
    assert!(files.len() > 50, "only {} source files were found", files.len());
    files
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(workspace())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Every crate's dependencies: name, kind (`null` is normal) and whether it is optional.
fn dependencies() -> BTreeMap<String, Vec<(String, Value, bool)>> {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let one = |dependency: &Value| {
        (text(&dependency["name"]), dependency["kind"].clone(), dependency["optional"].as_bool().unwrap())
    };
    packages
        .iter()
        .map(|package| {
            (text(&package["name"]), package["dependencies"].as_array().unwrap().iter().map(one).collect())
        })
        .collect()
}

fn short(name: &str) -> &str {
    name.strip_prefix("zynk-").unwrap_or(name)
}

/// The table of ARCHITECTURE.md: crates and what each may import, both without the prefix.
fn import_table() -> BTreeMap<String, BTreeSet<String>> {
    let page = read(&workspace().join("ARCHITECTURE.md"));
    let section = page.split("## Who may import whom").nth(1).expect("the section is there");
    let table = section.split("```").nth(1).expect("the table is there");
    let mut rows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in table.lines().filter(|line| line.contains("->")) {
        let (left, right) = line.split_once("->").unwrap();
        let name = left.split_whitespace().last().expect("a row names a crate").to_owned();
        // What stands in parentheses is from elsewhere; what follows a semicolon is said in words.
        let words = right.split(['(', ')']).step_by(2).collect::<String>();
        let words = words.split(';').next().unwrap().to_owned();
        let imports = words.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned);
        rows.insert(name, imports.collect());
    }
    assert!(rows.len() >= 10, "only {} rows were understood: {rows:?}", rows.len());
    rows
}

#[test]
fn imports_are_those_of_the_architecture_page() {
    let table = import_table();
    let roles = ["sfu-server", "turn-server", "signaling", "messaging", "recorder"];
    let mut violations = Vec::new();
    for (name, dependencies) in dependencies() {
        let ours = dependencies.iter().filter(|(dependency, ..)| dependency.starts_with("zynk-"));
        let Some(allowed) = table.get(short(&name)) else {
            violations.push(format!("{name} is not in the table"));
            continue;
        };
        for (dependency, kind, optional) in ours {
            let wanted = short(dependency);
            let is_allowed = allowed.contains("everything")
                || allowed.contains(wanted)
                || (allowed.contains("every role") && roles.contains(&wanted))
                // Bad links for tests.
                || (wanted == "netlab" && kind == "dev")
                // The client's shell: behind a feature, so that its core does without.
                || (name == "zynk-client" && wanted == "net" && (*optional || kind == "dev"));
            if !is_allowed {
                violations.push(format!("{name} -> {dependency} ({kind})"));
            }
        }
    }
    assert!(violations.is_empty(), "not in ARCHITECTURE.md's table: {violations:#?}");
}

#[test]
fn cores_depend_on_no_runtime_and_no_socket() {
    let dependencies = dependencies();
    let mut violations = Vec::new();
    for core in ["zynk-protocol", "zynk-auth", "zynk-sfu-core", "zynk-client", "zynk-netlab"] {
        for (dependency, kind, optional) in &dependencies[core] {
            // Their shells are behind features.
            let has_shell = ["zynk-client", "zynk-netlab"].contains(&core);
            let is_tolerated = kind == "dev" || (has_shell && *optional);
            if SHELL_CRATES.contains(&dependency.as_str()) && !is_tolerated {
                violations.push(format!("{core} -> {dependency}"));
            }
        }
    }
    assert!(violations.is_empty(), "{violations:#?}");
}

/// With it connections come up without a handshake. Nothing that is shipped may be built with it.
#[test]
fn test_keys_are_for_fuzzing_alone() {
    let metadata = metadata();
    let mut asking = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let has_it = dependency["name"] == "zynk-fuzz";
            if has_it || dependency["features"].to_string().contains("test-keys") {
                asking.push(name);
            }
        }
        if name == "zynk-sfu-core" {
            assert!(!package["features"]["test-keys"].is_null(), "the feature is there");
        }
        let enables = package["features"].as_object().unwrap().values();
        asking.extend(enables.filter(|what| what.to_string().contains("test-keys")).map(|_| name));
    }
    assert_eq!(asking, ["zynk-fuzz"]);
}

#[test]
fn str0m_is_named_in_one_module_of_a_crate() {
    let mut violations = Vec::new();
    for path in source_files().iter().filter(|path| path.ends_with(".rs") && path.contains("src/")) {
        let is_home = STR0M_MODULES.iter().any(|(_, module)| {
            path.strip_prefix(module).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        });
        let is_test = path.ends_with("/tests.rs") || path.contains("/tests/") || path.starts_with("tests/");
        if is_home || is_test {
            continue;
        }
        let text = read(&workspace().join(path));
        // Tests stand last in a file, and may ask the library for its opinion.
        for (number, line) in text.lines().enumerate().take_while(|(_, line)| *line != "#[cfg(test)]") {
            let code = line.split("//").next().unwrap();
            if code.contains("str0m::") || code.contains("use str0m") {
                violations.push(format!("{path}:{}", number + 1));
            }
        }
    }
    assert!(violations.is_empty(), "{violations:#?}");
    for (folder, _) in STR0M_MODULES {
        assert!(workspace().join(folder).is_dir(), "{folder} has moved");
    }
}

#[test]
fn files_are_no_longer_than_the_gate() {
    let too_long: Vec<_> = source_files()
        .iter()
        .map(|path| (path.clone(), read(&workspace().join(path)).lines().count()))
        .filter(|(_, lines)| *lines > FILE_LINES_MAX)
        .collect();
    assert!(too_long.is_empty(), "over {FILE_LINES_MAX} lines: {too_long:#?}");
}

#[test]
fn modules_are_named_by_what_they_hold() {
    let is_empty = |part: &str| EMPTY_NAMES.contains(&part.split('.').next().unwrap());
    let violations: Vec<_> =
        source_files().into_iter().filter(|path| path.split('/').any(is_empty)).collect();
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    // Put together here, so that this file does not contain them.
    let needles: Vec<String> =
        ["work/", "home/", "Users/", "tmp/bash"].iter().map(|path| format!("/{path}")).collect();
    let kinds = ["rs", "ts", "tsx", "mjs", "py", "sh", "toml", "md", "html", "json"];
    let allowed = ["package-lock.json", "THIRD-PARTY-NOTICES.md"];
    let mut violations = Vec::new();
    for path in files() {
        if !kinds.contains(&extension(&path)) || allowed.iter().any(|name| path.ends_with(name)) {
            continue;
        }
        for (number, line) in read(&workspace().join(&path)).lines().enumerate() {
            let starts_path = |needle: &String| {
                line.match_indices(needle.as_str()).any(|(at, _)| {
                    let before = line[..at].chars().next_back();
                    before.is_none_or(|c| c.is_whitespace() || "\"'`=(:".contains(c))
                })
            };
            if needles.iter().any(starts_path) {
                violations.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn third_party_notices_name_every_package_that_is_shipped() {
    let notices = read(&workspace().join("THIRD-PARTY-NOTICES.md"));
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--package", "zynk", "--edges", "normal", "--prefix", "none"])
        .args(["--locked", "--target", "x86_64-unknown-linux-gnu", "--format", "{p}"])
        .current_dir(workspace())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let packages: BTreeSet<String> = tree
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?, words.next()?.strip_prefix('v')?))
        })
        .filter(|(name, _)| *name != "zynk" && !name.starts_with("zynk-"))
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    assert!(packages.len() > 100, "only {} packages: {packages:?}", packages.len());
    let named: BTreeSet<&str> = notices.lines().filter_map(|line| line.strip_prefix("- ")).collect();
    let is_named = |package: &&String| named.iter().any(|line| line.starts_with(&format!("{package},")));
    let missing: Vec<_> = packages.iter().filter(|package| !is_named(package)).collect();
    assert!(missing.is_empty(), "run `make notices`; missing are {missing:#?}");
}
