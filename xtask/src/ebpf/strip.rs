//! Takes from a linked BPF object what the loader does not read: debug sections, and names that depend on where it
//! was built. BTF stays: maps need it, and with it the verifier quotes our source.

use anyhow::Context;
use object::build::{
    ByteString,
    elf::{Builder, SectionData},
};
use object::elf::{SHT_STRTAB, STB_LOCAL, STT_FUNC};

pub(super) fn strip(built: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut builder = Builder::read(built).context("not an ELF file")?;
    for section in &mut builder.sections {
        let name = section.name.to_string();
        let debug = name.starts_with(".debug_") || name.starts_with(".rel.debug_");
        // The loader takes offsets in BTF as they are.
        section.delete |= debug || name.starts_with(".rel.BTF");
    }
    builder.delete_orphans();
    // A mangled name holds a hash of the directory it was built in. Nobody looks a local function up by its name.
    let mut functions = 0;
    for symbol in &mut builder.symbols {
        if symbol.st_bind() == STB_LOCAL && symbol.st_type() == STT_FUNC {
            symbol.name = ByteString::from(format!("function_{functions}").into_bytes());
            functions += 1;
        }
    }
    // LLVM keeps the names of sections and symbols in one table, which can't be written again.
    let names = builder.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    builder.set_section_sizes();
    let mut stripped = Vec::new();
    builder.write(&mut stripped).context("cannot write the stripped object")?;
    Ok(stripped)
}
