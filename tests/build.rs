//! Tells the bench where the agent's build script has put the programs it measures.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let folder =
        env::var("DEP_HYDROMETER_PROGRAMS_FOLDER").expect("the agent's build script tells the folder");
    println!("cargo::rustc-env=HYDROMETER_PROGRAMS={folder}");
}
