"""An instrument calibration in a few lines of text."""

from picolab.instrument.store import InstrumentCalibration, Pairs, Rate


def summary_lines(calibration: InstrumentCalibration) -> list[str]:
    """Return the lines of a terminal about a calibration."""
    probe, noise = calibration.probe, calibration.noise
    found = [
        f"client's ceiling  upload {_in_words(calibration.upload_ceiling_mib_s)}, "
        f"download {_in_words(calibration.download_ceiling_mib_s)}",
        f"memory probe      throughput with it is {probe.ratio:.1%} of that without "
        f"({probe.low:.1%} to {probe.high:.1%}, {probe.n} pairs)",
        *(
            f"error             {name.replace('_', ' ')}: median {error.median:+.2%}, worst {error.worst:+.2%} "
            f"(truth {error.truth:g} {error.unit}, n = {error.n})"
            for name, error in calibration.errors.items()
        ),
        f"noise floor       {_noise_in_words(noise)}",
        *(f"caveat            {caveat.message} {caveat.advice}" for caveat in calibration.caveats),
    ]
    if calibration.quick:
        found.append(
            "note              quick: small files and few rounds; run picolab calibrate for numbers to rely on"
        )
    return found


def _in_words(rate: Rate) -> str:
    if rate.low is None or rate.high is None:
        return f"{rate.median:,.0f} MiB/s (n = {rate.n})"
    return f"{rate.median:,.0f} MiB/s ({rate.low:,.0f} to {rate.high:,.0f}, n = {rate.n})"


def _noise_in_words(noise: Pairs) -> str:
    if noise.spread is None or noise.minimum_detectable is None:
        return f"the same server twice: {noise.n} pairs are too few to tell"
    return (
        f"the same server twice differs by {noise.spread:.1%} (spread of {noise.n} pairs); so many pairs find a change "
        f"of {noise.minimum_detectable:.1%} or more"
    )
