//! How an engine is loaded: the options, and the choice of a device for it.

use crate::device::host::{HostDevice, HostOptions};
use crate::device::{CudaDevice, Device, EmulatorDevice};
use crate::error::Error;
use crate::exec::CacheSize;
use std::str::FromStr;
use trtc_engine::manifest::Manifest;

/// Where an engine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// What the engine was built for.
    #[default]
    Auto,
    /// This machine's processor.
    Host,
    /// An NVIDIA GPU, by number.
    Cuda(u32),
    /// A GPU's instructions, executed by this machine's processor.
    Emulator,
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<DeviceChoice, Error> {
        let cuda = |n: &str| n.parse().ok().map(DeviceChoice::Cuda);
        let choice = match text {
            "auto" => Some(DeviceChoice::Auto),
            "host" => Some(DeviceChoice::Host),
            "emulator" => Some(DeviceChoice::Emulator),
            "cuda" => Some(DeviceChoice::Cuda(0)),
            other => other.strip_prefix("cuda:").and_then(cuda),
        };
        choice.ok_or_else(|| {
            Error::user(format!("there is no device {text:?}"))
                .help("give auto, host, cuda:0 (or another number) or emulator")
        })
    }
}

/// How an engine is loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadOptions {
    /// Where it runs.
    pub device: DeviceChoice,
    /// Threads of the host device and the emulator; `None` takes what the machine has.
    pub threads: Option<usize>,
    /// Room for keys and values.
    pub cache: CacheSize,
    /// Keep the pages of prompts and answers, and use them again for what begins the same.
    pub prefix_cache: bool,
}

impl Default for LoadOptions {
    fn default() -> LoadOptions {
        LoadOptions { device: DeviceChoice::Auto, threads: None, cache: CacheSize::Auto, prefix_cache: true }
    }
}

impl LoadOptions {
    /// Threads to use on this machine.
    pub(super) fn threads(&self) -> Result<usize, Error> {
        match self.threads {
            Some(0) => Err(Error::user("threads is 0").help("give at least one, or leave it out")),
            Some(n) => Ok(n),
            None => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
        }
    }
}

/// `sm_90 (compute capability 9.0)`.
fn built_for(manifest: &Manifest) -> String {
    match manifest.capability {
        Some((major, minor)) => format!("{} (compute capability {major}.{minor})", manifest.target),
        None => manifest.target.clone(),
    }
}

const BUILD_FOR_GPU: &str = "build it for this GPU: trtc build MODEL -o ENGINE --target sm_NN";
const BUILD_FOR_HOST: &str = "build it for this machine: trtc build MODEL -o ENGINE --target host";

/// Opens the device that an engine is to run on; the engine is not loaded yet.
///
/// # Errors
/// The engine was built for another machine, or the device is not there.
pub fn open_device(manifest: &Manifest, options: &LoadOptions) -> Result<Box<dyn Device>, Error> {
    let host_engine = manifest.target == "host";
    let host = || HostDevice::new(HostOptions { threads: options.threads });
    let target = built_for(manifest);
    let help = if host_engine { "run it with --device host" } else { BUILD_FOR_HOST };
    let ordinal = match options.device {
        DeviceChoice::Auto | DeviceChoice::Host if host_engine => return Ok(Box::new(host()?)),
        DeviceChoice::Host => {
            return Err(Error::unsupported(format!(
                "the engine was built for {target}, the device is {}",
                host()?.name()
            ))
            .help(BUILD_FOR_HOST));
        }
        DeviceChoice::Emulator => return Ok(Box::new(EmulatorDevice::new(manifest, options.threads)?)),
        DeviceChoice::Auto => 0,
        DeviceChoice::Cuda(n) => n,
    };
    if !crate::device::cuda_present() {
        let machine = host()?.name();
        return Err(Error::unsupported(format!(
            "the engine was built for {target}; no NVIDIA driver found, this machine is {machine}"
        ))
        .help(help));
    }
    let device = CudaDevice::open(ordinal)?;
    match manifest.capability {
        Some(needed) if needed <= device.capability() => Ok(Box::new(device)),
        _ => Err(Error::unsupported(format!(
            "the engine was built for {target}, the device is {}",
            device.name()
        ))
        .help(if host_engine { "run it with --device host" } else { BUILD_FOR_GPU })),
    }
}
