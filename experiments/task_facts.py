"""What the made-up tasks know: capitals, elements, words, names, things."""

from __future__ import annotations

__all__ = ["CAPITALS", "DEVICES", "ELEMENTS", "NAMES", "ROOMS", "THINGS", "WORDS"]


def _listed(text: str) -> list[str]:
    return text.split()


CAPITALS: dict[str, str] = dict(
    pair.split(": ")
    for pair in """\
Afghanistan: Kabul; Angola: Luanda; Argentina: Buenos Aires; Austria: Vienna; Azerbaijan: Baku;
Belarus: Minsk; Belgium: Brussels; Benin: Porto-Novo; Bhutan: Thimphu; Brazil: Brasília;
Bulgaria: Sofia; Cambodia: Phnom Penh; Cameroon: Yaoundé; Canada: Ottawa; Chile: Santiago;
China: Beijing; Colombia: Bogotá; Croatia: Zagreb; Cuba: Havana; Cyprus: Nicosia;
Denmark: Copenhagen; Ecuador: Quito; Egypt: Cairo; Estonia: Tallinn; Ethiopia: Addis Ababa;
Fiji: Suva; Finland: Helsinki; France: Paris; Germany: Berlin; Ghana: Accra; Greece: Athens;
Haiti: Port-au-Prince; Honduras: Tegucigalpa; Hungary: Budapest; Iceland: Reykjavik;
India: New Delhi; Indonesia: Jakarta; Iran: Tehran; Iraq: Baghdad; Ireland: Dublin;
Israel: Jerusalem; Italy: Rome; Jamaica: Kingston; Japan: Tokyo; Jordan: Amman;
Kazakhstan: Astana; Kenya: Nairobi; Laos: Vientiane; Latvia: Riga; Lebanon: Beirut;
Libya: Tripoli; Lithuania: Vilnius; Malaysia: Kuala Lumpur; Mali: Bamako; Mongolia: Ulaanbaatar;
Morocco: Rabat; Mozambique: Maputo; Namibia: Windhoek; Nepal: Kathmandu;
the Netherlands: Amsterdam; New Zealand: Wellington; Nicaragua: Managua; Niger: Niamey;
Nigeria: Abuja; Norway: Oslo; Pakistan: Islamabad; Panama: Panama City; Paraguay: Asunción;
Peru: Lima; Poland: Warsaw; Portugal: Lisbon; Romania: Bucharest; Russia: Moscow;
Senegal: Dakar; Serbia: Belgrade; Singapore: Singapore; Slovakia: Bratislava; Somalia: Mogadishu;
South Korea: Seoul; Spain: Madrid; Sweden: Stockholm; Switzerland: Bern; Tanzania: Dodoma;
Thailand: Bangkok; Tunisia: Tunis; Turkey: Ankara; Ukraine: Kyiv; the United Kingdom: London;
Uruguay: Montevideo; Uzbekistan: Tashkent; Vietnam: Hanoi; Zambia: Lusaka; Zimbabwe: Harare\
""".replace("\n", " ").split("; ")
)

ELEMENTS: list[tuple[str, str]] = [
    (name, symbol)
    for name, symbol in (
        pair.split()
        for pair in """\
hydrogen H; helium He; lithium Li; beryllium Be; boron B; carbon C; nitrogen N; oxygen O;
fluorine F; neon Ne; sodium Na; magnesium Mg; aluminum Al; silicon Si; phosphorus P; sulfur S;
chlorine Cl; argon Ar; potassium K; calcium Ca; scandium Sc; titanium Ti; vanadium V; chromium Cr;
manganese Mn; iron Fe; cobalt Co; nickel Ni; copper Cu; zinc Zn; gallium Ga; germanium Ge;
arsenic As; selenium Se; bromine Br; krypton Kr; rubidium Rb; strontium Sr; yttrium Y; zirconium Zr;
niobium Nb; molybdenum Mo; technetium Tc; ruthenium Ru; rhodium Rh; palladium Pd; silver Ag;
cadmium Cd; indium In; tin Sn; antimony Sb; tellurium Te; iodine I; xenon Xe; cesium Cs; barium Ba;
lanthanum La; cerium Ce; praseodymium Pr; neodymium Nd; promethium Pm; samarium Sm; europium Eu;
gadolinium Gd; terbium Tb; dysprosium Dy; holmium Ho; erbium Er; thulium Tm; ytterbium Yb;
lutetium Lu; hafnium Hf; tantalum Ta; tungsten W; rhenium Re; osmium Os; iridium Ir; platinum Pt;
gold Au; mercury Hg; thallium Tl; lead Pb; bismuth Bi; polonium Po; astatine At; radon Rn\
""".replace("\n", " ").split("; ")
    )
]
"""Name and symbol, in the order of the atomic number from 1 on."""

WORDS = _listed("""\
acorn anchor basket battery blanket bridge button cactus candle dolphin donkey dragon elbow engine
falcon farmer feather forest garden giraffe goblet guitar hammer harbor helmet igloo insect island
jigsaw jungle kettle kitchen ladder lantern magnet meadow mirror mountain napkin nectar needle
orange oyster paddle parrot pepper planet quartz radish raven river rocket salmon sandal silver
summer thunder tunnel umbrella valley velvet violin walnut whistle window winter wizard yellow
yogurt zipper""")

NAMES = _listed("""\
Amir Ava Bella Ben Carlos Chloe Daniel Diana Emma Ethan Felix Grace Hugo Iris Jack Kira Leo Mia
Noah Olivia Priya Quinn Rosa Sam Tara Uma Victor Wendy Yusuf Zoe""")

THINGS = _listed("""\
apples bananas batteries books bulbs candles cookies marbles muffins mugs notebooks oranges
pencils pens plants postcards shells stamps stickers tickets""")

ROOMS = [
    "attic", "basement", "bathroom", "bedroom", "dining room", "garage", "hallway", "kitchen",
    "living room", "nursery", "office", "porch",
]  # fmt: skip

DEVICES: dict[str, tuple[str, str, int, int]] = {
    "blinds": ("position", "set_position", 0, 100),
    "fan": ("speed", "set_speed", 1, 5),
    "heater": ("temperature", "set_temperature", 10, 30),
    "lamp": ("brightness", "set_brightness", 0, 100),
    "speaker": ("volume", "set_volume", 0, 100),
    "thermostat": ("temperature", "set_temperature", 10, 30),
}
"""What can be set on a device, the action that sets it, the least and the largest value."""
