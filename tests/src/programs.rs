//! The kernel programs under BPF_PROG_TEST_RUN: the real verifier and the real machine code, packets from
//! memory.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf},
    programs::{Program, SchedClassifier, TestRun as _, TestRunOptions, Xdp},
};
use hydrometer_agent::{
    kernel::{Globals, HOOKS, Sizes, stages, trust},
    traffic::Traffic,
};
use hydrometer_ebpf::{
    abi::{Address, COUNTERS, Counters, ExchangeEvent, PORT_WORDS, ServiceKey, address},
    client::Client,
    head::HeadEvent,
    hello::HelloEvent,
};
use hydrometer_engine::Service;

/// The programs of the product.
pub fn product() -> &'static [u8] {
    hydrometer_agent::kernel::OBJECT
}

/// The programs of the bench.
pub fn bench() -> &'static [u8] {
    aya::include_bytes_aligned!(concat!(env!("HYDROMETER_PROGRAMS"), "/hydrometer-bench-programs"))
}

/// Loaded programs with maps of their own.
pub struct Programs {
    ebpf: Ebpf,
    // The kernel refuses programs whose log has no reader.
    _log: Option<Map>,
    events: RingBuf<MapData>,
    hellos: RingBuf<MapData>,
    heads: RingBuf<MapData>,
}

impl Programs {
    /// Loads `object`'s programs, watching `services`.
    pub fn load(object: &[u8], services: &[Service]) -> Result<Self> {
        Self::load_with_ring(object, services, 1 << 24)
    }

    /// Likewise, with a ring buffer of this many bytes: a power of two of at least a page.
    pub fn load_with_ring(object: &[u8], services: &[Service], ring: u32) -> Result<Self> {
        Self::load_for(object, services, ring, &Traffic::default())
    }

    /// Likewise, for traffic that is read so.
    pub fn load_for(object: &[u8], services: &[Service], ring: u32, traffic: &Traffic) -> Result<Self> {
        let sizes = Sizes { flows: 65_536, clients: 65_536, streams: 16_384, ring };
        Self::load_sized(object, services, traffic, sizes)
    }

    /// Likewise, with maps of these sizes.
    pub fn load_sized(object: &[u8], services: &[Service], traffic: &Traffic, sizes: Sizes) -> Result<Self> {
        let globals = Globals::new(traffic, sizes);
        let mut loader = EbpfLoader::new();
        globals.set(&mut loader);
        let mut ebpf = loader
            .override_global("AYA_LOG_LEVEL", &0_u8, true)
            .load(object)
            .context("cannot load the kernel programs")?;
        let log = ebpf.take_map("AYA_LOGS");
        let events = ebpf.take_map("EXCHANGES").context("there is no map EXCHANGES")?;
        let hellos = ebpf.take_map("HELLOS").context("there is no map HELLOS")?;
        let heads = ebpf.take_map("HEADS").context("there is no map HEADS")?;
        trust(&mut ebpf, &traffic.proxies)?;
        let (events, hellos) = (RingBuf::try_from(events)?, RingBuf::try_from(hellos)?);
        let heads = RingBuf::try_from(heads)?;
        let mut programs = Self { ebpf, _log: log, events, hellos, heads };
        programs.watch(services)?;
        for (name, program) in programs.ebpf.programs_mut() {
            match program {
                Program::Xdp(program) => program.load(),
                Program::SchedClassifier(program) => program.load(),
                _ => continue,
            }
            .with_context(|| format!("the verifier refuses {name}"))?;
        }
        for hook in &HOOKS {
            // The bench has no TC ingress.
            if programs.ebpf.map(hook.array).is_some() {
                stages(&mut programs.ebpf, hook)?;
            }
        }
        Ok(programs)
    }

    fn watch(&mut self, services: &[Service]) -> Result<()> {
        let mut bitmap = [0_u64; PORT_WORDS];
        let map = self.ebpf.map_mut("SERVICES").context("there is no map SERVICES")?;
        let mut table: HashMap<_, [u32; 5], u8> = HashMap::try_from(map)?;
        for service in services {
            bitmap[usize::from(service.port) / 64] |= 1 << (service.port % 64);
            let key = ServiceKey {
                address: service.address.map_or([0; 4], address),
                port: service.port.to_be(),
                pad: 0,
            };
            table.insert(<[u32; 5]>::from(key), 1, 0)?;
        }
        for name in ["PORTS", "FLOOR_PORTS"] {
            if let Some(map) = self.ebpf.map_mut(name) {
                let mut ports: Array<_, [u64; PORT_WORDS]> = Array::try_from(map)?;
                ports.set(0, bitmap, 0)?;
            }
        }
        Ok(())
    }

    /// Runs an XDP program on `frame`; returns its verdict and what a run took.
    pub fn xdp(&mut self, name: &str, frame: &[u8], repeat: u32) -> Result<(u32, Duration)> {
        let program: &mut Xdp =
            self.ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
        let result = program
            .test_run(TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::new() })
            .with_context(|| format!("cannot run {name} on {} bytes", frame.len()))?;
        Ok((result.return_value, result.duration))
    }

    /// Runs a TC program on `frame`; returns its verdict and what a run took.
    pub fn tc(&mut self, name: &str, frame: &[u8], repeat: u32) -> Result<(u32, Duration)> {
        self.tc_sent_at(name, frame, repeat, 0)
    }

    /// Likewise, on a frame of a socket that sent it at this time, monotonic nanoseconds, as those of TCP say.
    pub fn tc_sent_at(
        &mut self,
        name: &str,
        frame: &[u8],
        repeat: u32,
        time: u64,
    ) -> Result<(u32, Duration)> {
        // `tstamp` in `struct __sk_buff` (linux/bpf.h).
        let mut context = [0; 160];
        context[152..].copy_from_slice(&time.to_ne_bytes());
        let program: &mut SchedClassifier =
            self.ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(frame),
                ctx_in: Some(&context),
                repeat,
                ..TestRunOptions::new()
            })
            .with_context(|| format!("cannot run {name} on {} bytes", frame.len()))?;
        Ok((result.return_value, result.duration))
    }

    /// An XDP and a TC program, to be run at the same time.
    pub fn pair(&self, xdp: &str, tc: &str) -> Result<(Running<'_>, Running<'_>)> {
        let program = |name: &str| self.ebpf.program(name).with_context(|| format!("no program {name}"));
        Ok((Running(program(xdp)?), Running(program(tc)?)))
    }

    /// Exchanges that have ended since the last call.
    pub fn drain(&mut self) -> Vec<ExchangeEvent> {
        let mut events = Vec::new();
        while let Some(item) = self.events.next() {
            events.extend(ExchangeEvent::from_bytes(&item));
        }
        events
    }

    /// Begins of connections since the last call, with the client's bytes.
    pub fn hellos(&mut self) -> Vec<(HelloEvent, Vec<u8>)> {
        let mut hellos = Vec::new();
        while let Some(item) = self.hellos.next() {
            hellos.extend(HelloEvent::from_bytes(&item).map(|(event, bytes)| (event, bytes.to_vec())));
        }
        hellos
    }

    /// What trusted proxies have said since the last call, with their bytes.
    pub fn heads(&mut self) -> Vec<(HeadEvent, Vec<u8>)> {
        let mut heads = Vec::new();
        while let Some(item) = self.heads.next() {
            heads.extend(HeadEvent::from_bytes(&item).map(|(event, bytes)| (event, bytes.to_vec())));
        }
        heads
    }

    /// All clients, by their key.
    pub fn clients(&self) -> Result<Vec<(Address, Client)>> {
        let map = self.ebpf.map("CLIENTS").context("there is no map CLIENTS")?;
        let clients: HashMap<_, Address, [u64; size_of::<Client>() / 8]> = HashMap::try_from(map)?;
        clients
            .iter()
            .map(|entry| entry.map(|(key, words)| (key, words.into())).map_err(Into::into))
            .collect()
    }

    /// What the kernel made of each program, by name.
    pub fn costs(&self) -> Result<Vec<Cost>> {
        let mut costs = Vec::new();
        for (name, program) in self.ebpf.programs() {
            let info = program.info().with_context(|| format!("cannot ask the kernel about {name}"))?;
            costs.push(Cost {
                program: name.to_owned(),
                instructions: info
                    .verified_instruction_count()
                    .context("the kernel does not tell what its verifier processed; 5.16 and later do")?,
                machine_code: info.size_jitted(),
            });
        }
        costs.sort_by(|one, other| one.program.cmp(&other.program));
        Ok(costs)
    }

    /// Packets and losses, of all cores.
    pub fn counters(&self) -> Result<Counters> {
        let map = self.ebpf.map("COUNTERS").context("there is no map COUNTERS")?;
        let counters: PerCpuArray<_, Counters> = PerCpuArray::try_from(map)?;
        let mut total = [0; COUNTERS];
        for core in counters.get(&0, 0)?.iter() {
            for (total, count) in total.iter_mut().zip(core) {
                *total += count;
            }
        }
        Ok(total)
    }
}

/// What a kernel made of a program.
#[derive(Debug)]
pub struct Cost {
    /// Its name.
    pub program: String,
    /// Instructions that the verifier processed, on all paths, of the 1,000,000 that it allows.
    pub instructions: u32,
    /// Bytes of machine code; 0 when the kernel does not compile.
    pub machine_code: u32,
}

/// A program that others may run meanwhile.
#[derive(Clone, Copy)]
pub struct Running<'a>(&'a Program);

impl Running<'_> {
    /// Runs it on `frame`, `repeat` times.
    pub fn run(&self, frame: &[u8], repeat: u32) -> Result<()> {
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::new() };
        match self.0 {
            Program::Xdp(program) => program.test_run(options).map(drop),
            Program::SchedClassifier(program) => program.test_run(options).map(drop),
            _ => bail!("neither XDP nor TC"),
        }
        .with_context(|| format!("cannot run a program on {} bytes", frame.len()))
    }
}
