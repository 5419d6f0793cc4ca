//! Runs every `.mlir` file below `filetests/`, one test each; the harness is `trtc_tests::filetest`.

use libtest_mimic::{Arguments, Trial};
use std::path::Path;
use trtc_tests::filetest::{collect, run_file};

fn main() -> std::io::Result<()> {
    let arguments = Arguments::from_args();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("filetests");
    let bless = std::env::var_os("TRTC_BLESS").is_some_and(|v| v == "1");
    let trials = collect(&folder)?.into_iter().map(|path| {
        let name = path.strip_prefix(&folder).unwrap_or(&path).display().to_string();
        Trial::test(name, move || run_file(&path, bless).map_err(Into::into))
    });
    libtest_mimic::run(&arguments, trials.collect()).exit()
}
