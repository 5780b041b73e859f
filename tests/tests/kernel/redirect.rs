//! Plain connections, each family.

use crate::bed::Bed;

#[test]
fn v4_reaches_the_proxy_with_its_destination() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    let client = bed.connect("93.184.216.34:80")?;
    bed.expect_redirected(&client, "93.184.216.34:80")?;
    Ok(())
}

#[test]
fn v6_reaches_the_proxy_with_its_destination() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    let client = bed.connect("[2001:db8::22]:443")?;
    bed.expect_redirected(&client, "[2001:db8::22]:443")?;
    Ok(())
}

#[test]
fn mapped_v4_is_v4() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    let client = bed.connect("[::ffff:93.184.216.34]:80")?;
    bed.expect_redirected(&client, "93.184.216.34:80")?;
    Ok(())
}
