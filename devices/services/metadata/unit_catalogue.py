"""Units of a new tenant: those of sensors in greenhouses, labs and plants."""

from devices.models.metadata import Unit

# symbol, name, quantity, UCUM code
UNITS: tuple[tuple[str, str, str, str], ...] = (
    ("°C", "degree Celsius", "temperature", "Cel"),
    ("°F", "degree Fahrenheit", "temperature", "[degF]"),
    ("K", "kelvin", "temperature", "K"),
    ("%", "per cent", "ratio", "%"),
    ("ppm", "parts per million", "ratio", "[ppm]"),
    ("ppb", "parts per billion", "ratio", "[ppb]"),
    ("Pa", "pascal", "pressure", "Pa"),
    ("hPa", "hectopascal", "pressure", "hPa"),
    ("kPa", "kilopascal", "pressure", "kPa"),
    ("bar", "bar", "pressure", "bar"),
    ("mbar", "millibar", "pressure", "mbar"),
    ("mmHg", "millimetre of mercury", "pressure", "mm[Hg]"),
    ("psi", "pound per square inch", "pressure", "[psi]"),
    ("V", "volt", "voltage", "V"),
    ("mV", "millivolt", "voltage", "mV"),
    ("A", "ampere", "current", "A"),
    ("mA", "milliampere", "current", "mA"),
    ("W", "watt", "power", "W"),
    ("kW", "kilowatt", "power", "kW"),
    ("Wh", "watt hour", "energy", "W.h"),
    ("kWh", "kilowatt hour", "energy", "kW.h"),
    ("J", "joule", "energy", "J"),
    ("Hz", "hertz", "frequency", "Hz"),
    ("Ω", "ohm", "resistance", "Ohm"),
    ("kΩ", "kilohm", "resistance", "kOhm"),
    ("lx", "lux", "illuminance", "lx"),
    ("W/m²", "watt per square metre", "irradiance", "W/m2"),
    ("µmol/m²/s", "micromole per square metre and second", "photon flux density", "umol/m2/s"),
    ("m", "metre", "length", "m"),
    ("cm", "centimetre", "length", "cm"),
    ("mm", "millimetre", "length", "mm"),
    ("m/s", "metre per second", "speed", "m/s"),
    ("km/h", "kilometre per hour", "speed", "km/h"),
    ("m/s²", "metre per second squared", "acceleration", "m/s2"),
    ("°", "degree", "angle", "deg"),
    ("L", "litre", "volume", "L"),
    ("mL", "millilitre", "volume", "mL"),
    ("m³", "cubic metre", "volume", "m3"),
    ("L/min", "litre per minute", "flow", "L/min"),
    ("m³/h", "cubic metre per hour", "flow", "m3/h"),
    ("g", "gram", "mass", "g"),
    ("kg", "kilogram", "mass", "kg"),
    ("µg/m³", "microgram per cubic metre", "mass concentration", "ug/m3"),
    ("mg/L", "milligram per litre", "mass concentration", "mg/L"),
    ("g/m³", "gram per cubic metre", "mass concentration", "g/m3"),
    ("mS/cm", "millisiemens per centimetre", "conductivity", "mS/cm"),
    ("µS/cm", "microsiemens per centimetre", "conductivity", "uS/cm"),
    ("pH", "pH", "acidity", "[pH]"),
    ("dB", "decibel", "level", "dB"),
    ("ms", "millisecond", "time", "ms"),
    ("s", "second", "time", "s"),
    ("min", "minute", "time", "min"),
    ("h", "hour", "time", "h"),
)


def install_units() -> None:
    """Create the current tenant's missing units; existing ones stay unchanged."""
    Unit.objects.bulk_create(
        [Unit(symbol=symbol, name=name, quantity=quantity, ucum=ucum) for symbol, name, quantity, ucum in UNITS],
        ignore_conflicts=True,
    )
