"""What a device says of its power and heat, on made-up devices (tests/data/devices.json)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from uhlm_edge.common.errors import ResourceError
from uhlm_edge.common.machine import read_machine
from uhlm_edge.edge.device.power import (
    BatterySource,
    JtopSource,
    PmicSource,
    RaplSource,
    SensorError,
    run_command,
)
from uhlm_edge.edge.device.sensors import discover, read_battery
from uhlm_edge.edge.device.thermal import decode_throttled, read_heat, throttling_between

DATA = Path(__file__).parents[2] / "data"
PMIC = (DATA / "pmic_read_adc.txt").read_text()
PMIC_SUM = (
    3.7 * 0.1 + 3.3 * 0.1 + 1.8 * 0.2 + 1.1 * 0.1 + 1.1 * 0.2 + 0.8 * 0.3 + 0.9 * 2 + 5 * 0.02
)

Device = Callable[[str], Path]


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """Write the sysfs tree of a made-up device and return its root."""

    def make(name: str) -> Path:
        for path, content in json.loads((DATA / "devices.json").read_text())[name].items():
            put(tmp_path, path, content)
        return tmp_path

    return make


def put(root: Path, path: str, content: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content + "\n")


def no_command(command: Sequence[str]) -> str:
    raise SensorError(f"{command[0]} is not installed")


def pi5_says(command: Sequence[str]) -> str:
    assert command[0] == "vcgencmd"
    return {"pmic_read_adc": PMIC, "get_throttled": "throttled=0x50005\n"}[command[1]]


def test_a_pi_5_gives_the_fit_over_its_twelve_rails_and_says_so(device: Device) -> None:
    root = device("pi5")
    source = discover(root, pi5_says).pick()
    assert source.name == "pi5-pmic"
    assert "fit" in source.label
    assert source.read() == pytest.approx(1.1451 * PMIC_SUM + 0.5879)


def test_the_fit_is_refused_when_a_rail_is_missing() -> None:
    cut = "\n".join(line for line in PMIC.splitlines() if "VDD_CORE_A" not in line)
    with pytest.raises(SensorError, match="11 rails; the fit is for 12"):
        PmicSource(lambda _: cut).read()
    with pytest.raises(SensorError, match="0 rails"):
        PmicSource(lambda _: "error=1 error_msg='Command not registered'").read()


def test_a_pi_4_with_a_ups_battery_is_measured_whatever_the_sign_of_its_current(
    device: Device,
) -> None:
    root = device("pi4-ups")
    sensors = discover(root, no_command)
    source = sensors.pick()
    assert source.name == "battery"
    assert source.read() == pytest.approx(1.5 * 3.8)
    put(root, "sys/class/power_supply/battery/current_now", "1500000")
    assert source.read() == pytest.approx(1.5 * 3.8)
    assert sensors.missing["pi5-pmic"] == "not a Raspberry Pi 5"
    state = read_battery(root)
    assert state is not None
    assert state.full_wh == pytest.approx(38.0)
    assert state.energy_wh == pytest.approx(30.4)


def test_a_battery_that_reports_only_its_percentage_is_not_measured(device: Device) -> None:
    root = device("pi4-ups")
    for name in ("current_now", "charge_now"):
        (root / "sys/class/power_supply/battery" / name).unlink()
    sensors = discover(root, no_command)
    assert sensors.sources == ()
    assert "neither power, current, energy nor charge" in sensors.missing["battery"]


def test_a_battery_without_a_current_is_measured_by_what_it_loses(device: Device) -> None:
    root = device("laptop")
    battery = root / "sys/class/power_supply/BAT0"
    (battery / "power_now").unlink()
    source = BatterySource((battery,))
    assert source.quantity == "joules"
    assert source.read() == 0
    put(battery, "energy_now", "31990000")  # 10 mWh less
    assert source.read() == pytest.approx(36.0)


def test_a_gauge_that_says_0_watts_while_it_discharges_is_passed_over(device: Device) -> None:
    root = device("laptop")
    battery = root / "sys/class/power_supply/BAT0"
    put(battery, "power_now", "0")
    source = BatterySource((battery,))
    assert source.quantity == "joules"
    put(battery, "power_now", "5000000")
    source = BatterySource((battery,))
    put(battery, "power_now", "0")
    with pytest.raises(SensorError, match="0 W while discharging"):
        source.read()


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging"])
def test_a_battery_that_does_not_discharge_is_not_measured(device: Device, status: str) -> None:
    root = device("laptop")
    put(root, "sys/class/power_supply/BAT0/status", status)
    sensors = discover(root, no_command)
    assert [source.name for source in sensors.sources] == ["rapl"]
    assert "discharging" in sensors.missing["battery"] or "charging" in sensors.missing["battery"]


def test_a_battery_of_unknown_direction_counts_only_off_the_mains(device: Device) -> None:
    root = device("laptop")
    put(root, "sys/class/power_supply/BAT0/status", "Unknown")
    assert discover(root, no_command).pick().name == "battery"
    put(root, "sys/class/power_supply/AC/online", "1")
    assert discover(root, no_command).pick().name == "rapl"


def test_the_battery_of_a_mouse_is_not_the_devices(device: Device) -> None:
    root = device("laptop")
    source = discover(root, no_command).pick()
    assert source.label.startswith("battery BAT0,")
    assert source.read() == pytest.approx(8.7)


def test_a_jetson_is_read_at_its_input_rail_only(device: Device) -> None:
    source = discover(device("jetson-orin"), no_command).pick()
    assert source.name == "jetson"
    assert "VDD_IN" in source.label
    assert source.read() == pytest.approx(5.064 * 1.5)


def test_an_agx_orin_adds_parallel_rails_and_none_below_another(device: Device) -> None:
    source = discover(device("jetson-agx-orin"), no_command).pick()
    assert source.read() == pytest.approx(20 * 0.2 + 20 * 0.1 + 5 * 0.8)
    assert "VDDQ" not in source.label
    assert "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0" in source.label


def test_the_older_jetson_driver_gives_milliwatts(device: Device) -> None:
    source = discover(device("jetson-nano-old-driver"), no_command).pick()
    assert source.read() == pytest.approx(4.21)


def test_a_jetson_with_unknown_rails_is_not_guessed_at(device: Device) -> None:
    root = device("jetson-orin")
    put(root, "sys/class/hwmon/hwmon1/in1_label", "VDD_NEW")
    sensors = discover(root, no_command)
    assert sensors.sources == ()
    assert "no known input rail" in sensors.missing["jetson"]


def test_processor_counters_count_packages_once_and_undo_the_wrap(device: Device) -> None:
    root = device("laptop")
    source = discover(root, no_command).pick("rapl")
    assert source.read() == 0  # neither core, psys nor the second view of the package counts
    package = root / "sys/class/powercap/intel-rapl:0"
    put(package, "energy_uj", "262143000000")
    before = source.read()
    put(package, "energy_uj", "671150")  # 328,850 to the end and 671,150 after it
    assert source.read() - before == pytest.approx(1.0)


def test_a_counter_that_goes_back_without_a_range_is_an_error(device: Device) -> None:
    root = device("laptop")
    package = root / "sys/class/powercap/intel-rapl:0"
    source = RaplSource((package,))
    source.read()
    put(package, "energy_uj", "5")
    put(package, "max_energy_range_uj", "0")
    with pytest.raises(SensorError, match="went back"):
        source.read()


def test_a_counter_for_root_only_gives_that_as_the_reason(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = device("laptop")
    real = Path.read_text

    def guarded(path: Path, *args: object, **kwargs: object) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", guarded)
    assert "only by root" in discover(root, no_command).missing["rapl"]


def test_a_cloud_machine_has_a_reason_for_every_source_and_no_number(device: Device) -> None:
    sensors = discover(device("cloud"), no_command)
    assert sensors.sources == ()
    assert sensors.missing.keys() == {"jetson", "pi5-pmic", "battery", "rapl"}
    with pytest.raises(SensorError, match="power is not measured: jetson: no INA3221") as caught:
        sensors.pick()
    assert isinstance(caught.value, ResourceError)
    with pytest.raises(SensorError, match="rapl: no processor package counters"):
        sensors.pick("rapl")
    assert read_battery(device("cloud")) is None
    assert read_machine(device("cloud")).board == "KVM Virtual Machine"


def test_a_file_that_vanishes_is_an_error_with_its_name(device: Device) -> None:
    root = device("jetson-orin")
    source = discover(root, no_command).pick()
    (root / "sys/class/hwmon/hwmon1/curr1_input").unlink()
    with pytest.raises(SensorError, match="curr1_input is not there"):
        source.read()
    put(root, "sys/class/hwmon/hwmon1/curr1_input", "nan")
    with pytest.raises(SensorError, match="not a finite number"):
        source.read()


def test_jtop_is_optional_and_its_failures_are_reasons() -> None:
    class Service:
        def __init__(self) -> None:
            self.power: dict[str, dict[str, float]] = {"tot": {"power": 7312.0}}

        def start(self) -> None: ...

        def close(self) -> None: ...

    service = Service()
    source = JtopSource(lambda: service)
    assert source.read() == pytest.approx(7.312)
    service.power = {}
    with pytest.raises(SensorError, match="no total"):
        source.read()

    def silent() -> Service:
        raise RuntimeError("the service is not active")

    with pytest.raises(SensorError, match="not active"):
        JtopSource(silent)


def test_a_missing_command_is_a_reason() -> None:
    with pytest.raises(SensorError, match="is not installed"):
        run_command(["a-command-nobody-has"])
    with pytest.raises(SensorError, match="false failed"):
        run_command(["false"])


def test_throttle_bits_are_split_into_now_and_since_boot() -> None:
    assert decode_throttled("throttled=0x0\n") == ((), ())
    assert decode_throttled("throttled=0x50005") == (
        ("under-voltage", "throttled"),
        ("under-voltage", "throttled"),
    )
    assert decode_throttled("throttled=0x80000") == ((), ("soft temperature limit",))
    with pytest.raises(SensorError):
        decode_throttled("VCHI initialization failed")


def test_heat_is_read_and_an_impossible_temperature_left_out(device: Device) -> None:
    heat = read_heat(device("jetson-orin"), no_command)
    assert heat.temperatures == {"cpu-thermal": 48.0}
    assert heat.trip == ()
    assert heat.throttled_now is None
    assert heat.events == 2
    pi = read_heat(device("pi5"), pi5_says)
    assert pi.frequency_mhz == pytest.approx(1950)
    assert pi.frequency_max_mhz == pytest.approx(2400)
    assert pi.throttled_now == ("under-voltage", "throttled")


def test_what_is_not_known_of_heat_is_null_not_zero(device: Device) -> None:
    row = read_heat(device("cloud"), no_command).row()
    assert row["hottest_c"] is None
    assert row["frequency_mhz"] is None
    assert row["throttled_now"] is None
    assert row["throttle_events"] is None


def test_throttling_during_a_run_is_noticed(device: Device) -> None:
    root = device("laptop")
    before = read_heat(root, no_command)
    assert throttling_between([before, before]) == []
    put(root, "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "5")
    assert throttling_between([before, read_heat(root, no_command)]) == [
        "2 throttle events were counted"
    ]
    orin = device("jetson-orin")
    put(orin, "sys/class/thermal/thermal_zone0/temp", "99000")
    assert "thermal zone cpu-thermal" in throttling_between([read_heat(orin, no_command)])[0]
