//! Instructions per packet and receiver, counted by valgrind's callgrind: the same on a busy machine as on an idle one.
//! Valgrind offers no VAES, so AES-GCM takes more instructions there than it does on the processor.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::{INTERVAL, payload, plane::Fan, rtp_mode::RtpMode};

const RECEIVERS: usize = 20;
/// Packets of the shorter and of the longer run: the difference is free of what both do once.
const STEPS: [usize; 2] = [200, 700];

/// Prints the table.
pub(crate) fn print() -> Result<()> {
    println!("{:<14} {:>9} {:>8} {:>26}", "what", "receivers", "sections", "instructions per packet");
    for what in ["zynk", "str0m"] {
        for sections in [2, 10, 50] {
            let [few, many] = [count(what, sections, STEPS[0])?, count(what, sections, STEPS[1])?];
            let packets = ((STEPS[1] - STEPS[0]) * RECEIVERS) as f64;
            println!(
                "{what:<14} {RECEIVERS:>9} {sections:>8} {:>26.0}",
                many.saturating_sub(few) as f64 / packets
            );
        }
    }
    Ok(())
}

fn count(what: &str, sections: usize, steps: usize) -> Result<u64> {
    let program = std::env::current_exe().context("this program's path")?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*measured_part*"])
        .arg(program)
        .args(["--case", what, &sections.to_string(), &steps.to_string()])
        .stdout(Stdio::null())
        .output()
        .context("starting valgrind; Debian has it as `apt-get install valgrind`")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind failed: {text}");
    let line = text.lines().find(|line| line.contains("Collected :")).context("callgrind's count")?;
    let figure = line.rsplit(' ').next().context("a figure")?;
    figure.parse().with_context(|| format!("{line} is no count"))
}

/// One run, to be counted: `what`, sections, steps.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let [what, sections, steps] = arguments else { bail!("--case needs what, sections and steps") };
    let (sections, steps) = (sections.parse()?, steps.parse()?);
    match what.as_str() {
        "zynk" => {
            let mut fan = Fan::new(RECEIVERS, sections, payload(1100))?;
            fan.set_copies(false);
            for _ in 0..steps {
                fan.forward()?;
            }
        }
        // For whoever looks for allocations with valgrind's dhat.
        "answering" => {
            let mut fan = Fan::new(RECEIVERS, sections, payload(1100))?;
            for _ in 0..steps {
                fan.forward()?;
                fan.answer()?;
            }
        }
        "str0m" => {
            let mut mode = RtpMode::new(RECEIVERS, sections, payload(1100))?;
            for _ in 0..steps {
                mode.step(INTERVAL)?;
            }
        }
        other => bail!("{other} is neither zynk nor answering nor str0m"),
    }
    Ok(())
}
