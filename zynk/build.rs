//! Rebuilds the binary when the web client that it embeds was built anew.

fn main() {
    println!("cargo:rerun-if-changed=../web/dist");
    println!("cargo:rerun-if-changed=build.rs");
}
