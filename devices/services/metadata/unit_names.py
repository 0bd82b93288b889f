"""Words in the names of values: quantities with their usual units, spelled units, and words that change a meaning."""

from typing import NamedTuple


class Rule(NamedTuple):
    """A unit that is usual for values from `low` to `high`; `whole` limits it to whole numbers, or to fractions."""

    low: float
    high: float
    unit: str
    whole: bool | None = None


class Quantity(NamedTuple):
    """What a word measures: a key, the quantities of the units that fit it, and the usual units by value.

    `unlike` are words before it that make something else of it, such as `power` after `reactive`. `place` says that
    the word also names the place of a measurement, such as a battery.
    """

    key: str
    quantities: tuple[str, ...]
    rules: tuple[Rule, ...] = ()
    unlike: frozenset[str] = frozenset()
    place: bool = False


class SpelledUnit(NamedTuple):
    """A unit as a part of a name. `sure` says that its letters mean nothing else."""

    symbol: str
    quantity: str
    sure: bool = True


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Above that, a room in degrees Fahrenheit is as likely as a boiler.
_CELSIUS = Rule(-60, 69, "°C")
_PERCENT = (Rule(0, 0, "%"), Rule(1, 100, "%"))
_TEMPERATURE = Quantity("temperature", ("temperature",), (_CELSIUS,), _set("color colour cct mired noise"))
_CURRENT_RULES = (Rule(-16, 16, "A", True), Rule(-63, 63, "A", False))
_POWER_UNLIKE = _set(
    "reactive apparent aprt complex q s tx rx rf transmit transmission signal radio uv optical heating cooling fan"
    " burner burn pump wifi lora processing light"
)
_PRESSURE_UNLIKE = _set(
    "water oil fuel tire tyre line boiler gas suction discharge differential vapor vapour system sys tank pump blood"
    " brake hydraulic steam refrigerant pipe filter duct static dynamic gauge sound partial"
)
_IRRADIANCE = Quantity("irradiance", ("irradiance", "photon flux density"), (Rule(0, 2000, "W/m²"),))
_WATTS = (Rule(-1e6, 1e6, "W"),)
_BATTERY_VOLTAGE = (Rule(0, 100, "V"), Rule(1000, 15000, "mV"))
_TIME = Quantity("", ("time",))
_LENGTH = Quantity("", ("length", "ratio", "volume"))
_GAS = Quantity("", ("ratio", "mass concentration"))
_AMOUNT = Quantity("", ("mass", "volume", "flow", "ratio"))
_PARTICLES = Quantity("", ("mass concentration",), (Rule(0, 2000, "µg/m³"),))
_DIRECTION = Quantity("direction", ("angle",), (Rule(0, 360, "°"),))
_COORDINATE = Quantity("", ("angle",), (Rule(-180, 180, "°", False),))
_SPEED = Quantity("", ("speed",))
_LEVEL = Quantity("noise", ("level",), (Rule(20, 140, "dB"),), _set("signal radio channel wifi rf phase"), place=True)

QUANTITIES: dict[str, Quantity] = {
    **dict.fromkeys(_set("temp temperature tmp temps temperatures"), _TEMPERATURE),
    **dict.fromkeys(_set("dewpoint dewpt"), _TEMPERATURE._replace(key="dewpoint")),
    **dict.fromkeys(_set("windchill heatindex feelslike"), _TEMPERATURE._replace(key="")),
    **dict.fromkeys(
        _set("hum humi humid humidity rh"), Quantity("humidity", ("ratio",), _PERCENT, _set("absolute specific"))
    ),
    **dict.fromkeys(_set("moisture soilmoisture vwc"), Quantity("moisture", ("ratio",), _PERCENT)),
    **dict.fromkeys(
        _set("co2 eco2"), Quantity("co2", ("ratio", "mass concentration"), (Rule(300, 10000, "ppm"),))
    ),
    **dict.fromkeys(_set("tvoc voc co no2 o3 so2 nh3 hcho ch2o nox o2 ch4 tds salinity radon gas"), _GAS),
    **dict.fromkeys(_set("lux illuminance"), Quantity("illuminance", ("illuminance",), (Rule(0, 200000, "lx"),))),
    **dict.fromkeys(_set("light luminosity"), Quantity("", ("illuminance", "ratio"), place=True)),
    **dict.fromkeys(_set("ppfd par"), Quantity("ppfd", ("photon flux density",), (Rule(0, 3000, "µmol/m²/s"),))),
    **dict.fromkeys(_set("irradiance solarradiation"), _IRRADIANCE),
    "radiation": Quantity("", _IRRADIANCE.quantities),
    **dict.fromkeys(
        _set("pressure press baro barom barometer pressures"),
        Quantity("pressure", ("pressure",), (Rule(800, 1100, "hPa"), Rule(80000, 110000, "Pa")), _PRESSURE_UNLIKE),
    ),
    "vpd": Quantity("", ("pressure",)),
    "setpoint": Quantity("", ("temperature",)),
    **dict.fromkeys(
        _set("voltage voltages"), Quantity("voltage", ("voltage",), (Rule(-600, 1000, "V"), Rule(2500, 4300, "mV")))
    ),
    **dict.fromkeys(_set("vcc vbat vbatt vdd vusb"), Quantity("voltage", ("voltage",), _BATTERY_VOLTAGE)),
    "orp": Quantity("orp", ("voltage",), (Rule(-2000, 2000, "mV", True),)),
    "current": Quantity("current", ("current",), _CURRENT_RULES),
    **dict.fromkeys(_set("power apower"), Quantity("power", ("power", "ratio"), _WATTS, _POWER_UNLIKE)),
    "energy": Quantity("energy", ("energy",), (Rule(0, 1e5, "kWh", False),), _set("reactive apparent")),
    **dict.fromkeys(
        _set("frequency freq"),
        Quantity("frequency", ("frequency",), (Rule(45, 65, "Hz"),), _set("radio lora cpu channel center")),
    ),
    **dict.fromkeys(_set("resistance impedance"), Quantity("", ("resistance",))),
    "ph": Quantity("ph", ("acidity",), (Rule(0, 14, "pH"),)),
    **dict.fromkeys(
        _set("ec conductivity"),
        Quantity("ec", ("conductivity",), (Rule(0.01, 10, "mS/cm", False), Rule(100, 20000, "µS/cm"))),
    ),
    **dict.fromkeys(_set("pm1 pm4 pm10 pm25"), _PARTICLES),
    **dict.fromkeys(_set("noise sound spl"), _LEVEL),
    "snr": Quantity("", ("level",), (Rule(-40, 60, "dB"),)),
    **dict.fromkeys(_set("rssi signal"), Quantity("", ("signal level", "level"), (Rule(-150, -20, "dBm"),))),
    **dict.fromkeys(_set("winddir winddirection heading bearing azimuth"), _DIRECTION),
    **dict.fromkeys(_set("latitude longitude lat lon lng"), _COORDINATE._replace(key="")),
    **dict.fromkeys(_set("speed windspeed gust windgust"), _SPEED),
    **dict.fromkeys(_set("wind"), Quantity("", ("speed",), place=True)),
    **dict.fromkeys(_set("acceleration accel"), Quantity("", ("acceleration",))),
    **dict.fromkeys(_set("weight mass volume consumption"), _AMOUNT),
    **dict.fromkeys(_set("flow"), Quantity("", ("flow",), place=True)),
    **dict.fromkeys(_set("distance altitude elevation depth height rain rainfall precipitation"), _LENGTH),
    **dict.fromkeys(_set("level"), Quantity("", ("length", "ratio", "volume", "level"))),
    **dict.fromkeys(_set("uptime duration interval timeout latency period age"), _TIME),
    **dict.fromkeys(
        _set("battery batt bat"),
        Quantity(
            "battery",
            ("ratio", "voltage", "current"),
            (Rule(2, 100, "%", True), Rule(60, 100, "%", False), Rule(1500, 4300, "mV", True)),
            _set("low weak ok replace no has is need change"),
            place=True,
        ),
    ),
    "soc": Quantity("soc", ("ratio",), (Rule(0, 100, "%"),)),
    # Words of Korean names.
    "강수량": Quantity("rainfall", ("length",), (Rule(0, 2000, "mm"),)),
    "풍속": Quantity("wind_speed", ("speed",), (Rule(0, 100, "m/s"),)),
    "풍향": _DIRECTION._replace(key="wind_direction"),
}  # fmt: skip
# A quantity after certain words only: (the quantity, the words before it of which one is needed).
AFTER: dict[str, tuple[Quantity, frozenset[str]]] = {
    **dict.fromkeys(_set("dir direction deg degree degrees angle"), (_DIRECTION, _set("wind gust"))),
    "setpoint": (
        Quantity("", ("temperature",), (Rule(4, 40, "°C"),)),
        _set("heating cooling heat cool thermostat occupied unoccupied eco comfort away"),
    ),
    "radiation": (_IRRADIANCE, _set("solar global")),
    "voltage": (Quantity("voltage", ("voltage",), _BATTERY_VOLTAGE), _set("battery batt bat supply vcc")),
}
# `current` is an adjective in `current_state` and a noun in `motor_current`: these words go before the noun.
BEFORE_CURRENT = _set(
    "battery batt bat load charge charging discharge input output in out motor pump phase line ac dc solar pv panel"
    " grid max min total avg rms led heater bus supply inverter mains coil compressor n neutral channel ch port usb"
    " measured l electric electrical consumed a b c"
)
AFTER_CURRENT = _set("max min avg mean rms phase l a b c total ac dc")

_KELVIN = SpelledUnit("K", "temperature")
_MG_L = SpelledUnit("mg/L", "mass concentration")
_UG_M3 = SpelledUnit("µg/m³", "mass concentration")
_SECOND, _MS = SpelledUnit("s", "time"), SpelledUnit("ms", "time", sure=False)
_PER_CENT = SpelledUnit("%", "ratio")
SPELLED_UNITS: dict[str, SpelledUnit] = {
    **dict.fromkeys(_set("celsius degc centigrade ℃"), SpelledUnit("°C", "temperature")),
    **dict.fromkeys(_set("fahrenheit degf ℉"), SpelledUnit("°F", "temperature")),
    "kelvin": _KELVIN,
    **dict.fromkeys(_set("percent percentage pct perc"), _PER_CENT),
    "ppm": SpelledUnit("ppm", "ratio"),
    "ppb": SpelledUnit("ppb", "ratio"),
    "pa": SpelledUnit("Pa", "pressure", sure=False),
    "hpa": SpelledUnit("hPa", "pressure"),
    "kpa": SpelledUnit("kPa", "pressure"),
    "mbar": SpelledUnit("mbar", "pressure"),
    "bar": SpelledUnit("bar", "pressure", sure=False),
    "psi": SpelledUnit("psi", "pressure", sure=False),
    "mmhg": SpelledUnit("mmHg", "pressure"),
    "inhg": SpelledUnit("inHg", "pressure"),
    "mv": SpelledUnit("mV", "voltage"),
    **dict.fromkeys(_set("volts volt"), SpelledUnit("V", "voltage")),
    "ma": SpelledUnit("mA", "current", sure=False),
    "milliamps": SpelledUnit("mA", "current"),
    **dict.fromkeys(_set("amps ampere amperes amp"), SpelledUnit("A", "current")),
    "kw": SpelledUnit("kW", "power"),
    **dict.fromkeys(_set("watts watt"), SpelledUnit("W", "power")),
    "wh": SpelledUnit("Wh", "energy"),
    "kwh": SpelledUnit("kWh", "energy"),
    "mwh": SpelledUnit("MWh", "energy", sure=False),
    "hz": SpelledUnit("Hz", "frequency"),
    "khz": SpelledUnit("kHz", "frequency"),
    "mhz": SpelledUnit("MHz", "frequency"),
    **dict.fromkeys(_set("ohm ohms"), SpelledUnit("Ω", "resistance")),
    **dict.fromkeys(_set("kohm kohms"), SpelledUnit("kΩ", "resistance")),
    "lx": SpelledUnit("lx", "illuminance"),
    "wm2": SpelledUnit("W/m²", "irradiance"),
    "mm": SpelledUnit("mm", "length", sure=False),
    "cm": SpelledUnit("cm", "length", sure=False),
    "m": SpelledUnit("m", "length", sure=False),
    **dict.fromkeys(_set("meters metres meter metre"), SpelledUnit("m", "length", sure=False)),
    **dict.fromkeys(_set("inch inches"), SpelledUnit("in", "length")),
    "mps": SpelledUnit("m/s", "speed"),
    **dict.fromkeys(_set("kmh kph kmph"), SpelledUnit("km/h", "speed")),
    "mph": SpelledUnit("mph", "speed"),
    "kg": SpelledUnit("kg", "mass"),
    "g": SpelledUnit("g", "mass", sure=False),
    "ml": SpelledUnit("mL", "volume", sure=False),
    **dict.fromkeys(_set("liters litres liter litre"), SpelledUnit("L", "volume")),
    **dict.fromkeys(_set("lpm lmin"), SpelledUnit("L/min", "flow")),
    "m3h": SpelledUnit("m³/h", "flow"),
    **dict.fromkeys(_set("ugm3 µgm3 μgm3"), _UG_M3),
    "mgl": _MG_L,
    "uscm": SpelledUnit("µS/cm", "conductivity"),
    "mscm": SpelledUnit("mS/cm", "conductivity"),
    "db": SpelledUnit("dB", "level", sure=False),
    "dbm": SpelledUnit("dBm", "signal level"),
    **dict.fromkeys(_set("seconds secs sec second"), _SECOND),
    "s": SpelledUnit("s", "time", sure=False),
    "ms": _MS,
    **dict.fromkeys(_set("milliseconds millis msec"), SpelledUnit("ms", "time")),
    **dict.fromkeys(_set("minutes mins minute"), SpelledUnit("min", "time")),
    **dict.fromkeys(_set("hours hrs hour"), SpelledUnit("h", "time")),
    "h": SpelledUnit("h", "time", sure=False),
    # A last letter, as in temp_f.
    "c": SpelledUnit("°C", "temperature", sure=False),
    "f": SpelledUnit("°F", "temperature", sure=False),
    "k": SpelledUnit("K", "temperature", sure=False),
    "v": SpelledUnit("V", "voltage", sure=False),
    "a": SpelledUnit("A", "current", sure=False),
    "w": SpelledUnit("W", "power", sure=False),
}
# Neighbouring words that are one word, longest first.
JOINED: tuple[tuple[tuple[str, ...], str], ...] = (
    (("state", "of", "charge"), "soc"), (("km", "per", "h"), "kmh"), (("m", "per", "s"), "mps"),
    (("l", "per", "min"), "lpm"), (("ug", "per", "m3"), "ugm3"), (("w", "per", "m2"), "wm2"),
    (("watt", "hours"), "wh"), (("watt", "hour"), "wh"), (("watts", "hour"), "wh"), (("kilowatt", "hours"), "kwh"),
    (("kilo", "watt"), "kw"), (("k", "wh"), "kwh"), (("k", "w"), "kw"), (("m", "v"), "mv"), (("m", "a"), "ma"),
    (("h", "pa"), "hpa"), (("k", "pa"), "kpa"), (("m", "bar"), "mbar"), (("mm", "hg"), "mmhg"),
    (("in", "hg"), "inhg"), (("d", "bm"), "dbm"), (("k", "hz"), "khz"), (("m", "hz"), "mhz"), (("m", "wh"), "mwh"),
    (("k", "ohm"), "kohm"), (("km", "h"), "kmh"), (("m", "s"), "mps"), (("mi", "h"), "mph"), (("l", "min"), "lmin"),
    (("w", "m2"), "wm2"), (("ug", "m3"), "ugm3"), (("µg", "m3"), "ugm3"), (("mg", "l"), "mgl"), (("m3", "h"), "m3h"),
    (("us", "cm"), "uscm"), (("ms", "cm"), "mscm"), (("m", "s", "cm"), "mscm"), (("deg", "c"), "degc"),
    (("deg", "f"), "degf"), (("carbon", "dioxide"), "co2"), (("e", "co2"), "co2"), (("dew", "point"), "dewpoint"),
    (("dew", "pt"), "dewpoint"), (("heat", "index"), "heatindex"), (("wind", "chill"), "windchill"),
    (("feels", "like"), "feelslike"), (("set", "point"), "setpoint"), (("solar", "radiation"), "solarradiation"),
    (("ms", "ec"), "msec"), (("wpm", "2"), "wm2"), (("p", "h"), "ph"),
)  # fmt: skip
# Parts of Korean names, and what they mean here.
KOREAN = {
    "토양수분": "moisture", "수분": "moisture", "이산화탄소": "co2", "초미세먼지": "pm25", "미세먼지": "pm10",
    "전기전도도": "ec", "전도도": "ec", "일사량": "irradiance", "배터리": "battery", "강수량": "강수량",
    "전력량": "energy", "온도": "temperature", "기온": "temperature", "수온": "temperature", "지온": "temperature",
    "이슬점": "dewpoint", "습도": "humidity", "조도": "illuminance", "기압": "pressure", "대기압": "pressure",
    "전압": "voltage", "전류": "current", "전력": "power", "주파수": "frequency", "산도": "ph", "소음": "noise",
    "풍속": "풍속", "풍향": "풍향", "무게": "weight", "유량": "flow", "거리": "distance", "수위": "level",
    "값": "value", "센서": "sensor", "평균": "avg", "최대": "max", "최소": "min", "최고": "max", "최저": "min",
    "실내": "indoor", "실외": "outdoor", "내부": "inside", "외부": "outside", "현재": "now", "측정": "measured",
    "색": "color", "무효": "reactive", "피상": "apparent", "절대": "absolute", "누설": "leakage",
}  # fmt: skip
# Words after a quantity that leave its meaning as it is.
QUALIFIERS = _set(
    "value val reading readings measured measurement sensor probe avg average mean median min max minimum maximum"
    " indoor outdoor inside outside internal external int ext in out ambient room air water soil supply return inlet"
    " outlet top bottom left right upper lower phase now actual act cur last latest live today daily total sum filtered"
    " smoothed target set setpoint sp desired compensated comp a b c d e x y z l data rms local ac dc rel abs"
    " ch channel sht ds dht bme bmp scd ntc rtd"
)
# Letters that number phases and probes, where the quantity has another unit.
LETTERS = _set("a b c")
# Qualifiers of particles: in the atmosphere, in a standard one, in the environment.
PARTICLE_QUALIFIERS = _set("atm env std standard cf ae")
# With one of these anywhere before the quantity, the usual unit is not that of the name.
OTHER_MEANING = _set(
    "delta diff difference offset calibration correction error alarm alert warning trend raw adc index aqi count"
    " counts threshold hysteresis deadband uv leakage leak residual fault flame number"
)
# With one of these in the name, a spelled unit is only a part of the unit.
COMPOUND = _set("per price cost tariff rate fee factor")
# Names without meaning: the name of what contains them is read instead.
NEUTRAL = _set("value val v data reading readings measured measurement")
