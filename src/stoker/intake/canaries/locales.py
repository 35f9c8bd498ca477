"""Names, streets, cities and words of twelve languages, written by hand for planting. Plain data.

None of it is taken from the lists that the recognisers use, so that finding it is no matter of looking it up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from stoker.intake.canaries.later_locales import LATER_LOCALES, LATER_STREET_KINDS
from stoker.intake.canaries.locale import Locale, labels_from, words_of

LOCALES: Final[tuple[Locale, ...]] = (
    Locale(
        "en",
        "US",
        words_of(
            "Harriet Delroy Marcus Shanice Wendell Bettina Curtis Yolanda Emmett Priscilla Darnell Gwen"
        ),
        words_of("Holloway Pruitt Ostrander McAllister Whitcomb Dunleavy Rosario Tidwell Abernathy Kessler"),
        words_of("Brad Wel Hart Ash Cal Thorn Lang Wick Mar Stan"),
        words_of("more ley ford worth well man ton ridge"),
        ("Mr.", "Mrs.", "Ms.", "Dr."),
        words_of("Sycamore Larkspur Juniper Harbor Quarry Meadow Orchard Prospect Kingsley Bluff"),
        "{number} {name} {kind}",
        ("Duluth", "Tacoma", "Savannah", "Akron", "Santa Fe", "Boise", "Chattanooga", "Peoria"),
        "%####",
        "{city}, {state} {postcode}",
        ("(206) 4##-####", "312-7##-####", "+1 415-2##-####", "503.6##.####"),
        "%m/%d/%Y",
        "American",
        ("{family} Logistics Inc.", "{family} & Sons LLC", "{city} Savings Bank", "{family} Group"),
        "GB",
        "com",
        labels_from(
            "Name | Email | Phone | Address | ZIP code | Date of birth | Age | Title | Company | Nationality "
            "| City | IBAN | Card number | SSN | Driver license number | IP address | MAC address | Password "
            "| Location | Date | Website"
        ),
        "{title} {name}, born on {born}, is a {nationality} citizen aged {age} who works for {employer} in "
        "{city}. Their address is {address}, {postcode}. Call {phone} or write to {email}. Their social "
        "security number is {id}, their driver license number {licence}; please pay to IBAN {account} or by "
        "credit card {card}. The contract of {date} is on {site}.",
    ),
    Locale(
        "en",
        "GB",
        words_of("Alistair Imogen Rhys Fionnuala Gareth Saoirse Callum Tamsin Hamish Poppy Nigel Bronwen"),
        words_of(
            "Featherstone Cartwright Llewellyn Ashworth MacGregor Penhaligon Thistlewood Okonkwo Birtwistle"
        ),
        words_of("Ash Had Bram Crow Wim Lax Hol Pem"),
        words_of("combe ley thwaite by worth ton bury wick"),
        ("Mr", "Mrs", "Ms", "Dr", "Sir"),
        words_of("Rectory Wharf Tannery Bramley Castle Chapel Heath Priory Windmill Foundry"),
        "{number} {name} {kind}",
        ("Shrewsbury", "Dundee", "Swansea", "Norwich", "Hexham", "Kettering", "Bangor", "Truro"),
        "^%# #&&",
        "{city} {postcode}",
        ("020 7946 0###", "+44 161 496 0###", "07700 900###", "0131 496 0###"),
        "%d/%m/%Y",
        "British",
        ("{family} Holdings plc", "{family} & Co Ltd", "{city} Building Society", "{family} Trust"),
        "GB",
        "co.uk",
        labels_from(
            "Name | E-mail | Telephone | Address | Postcode | Date of birth | Age | Title | Employer | "
            "Nationality | Town | IBAN | Card number | National insurance number | Driving licence number | "
            "IP address | MAC address | Password | Position | Date | Website"
        ),
        "{title} {name} (born {born}, {nationality}, {age} years old) is employed by {employer} of {city} "
        "and lives at {address}, {postcode}. Telephone {phone}, e-mail {email}. National insurance number "
        "{id}, driving licence number {licence}. Bank account {account}, card number {card}. Signed on "
        "{date}; see {site}.",
    ),
    Locale(
        "de",
        "DE",
        words_of(
            "Friederike Jürgen Annegret Björn Waltraud Detlef Sieglinde Thorsten Mechthild Götz Ulrike Heiko"
        ),
        words_of(
            "Brückner Hinterhuber Schwarzkopf Oberländer Zumstein Fähnrich Käsbauer Wohlgemuth Rübsam Lüders"
        ),
        words_of("Brück Stein Wald Rosen Eich Grün Bach Hohen"),
        words_of("meier hofer mann ner berger haus ing"),
        ("Herr", "Frau", "Dr."),
        words_of("Gerber Ulmen Schiller Mühlen Bahnhof Kastanien Lessing Birken Ring Tauben"),
        "{name}{kind} {number}",
        ("Osnabrück", "Göttingen", "Chemnitz", "Kaiserslautern", "Regensburg", "Flensburg", "Görlitz"),
        "%####",
        "{postcode} {city}",
        ("+49 30 2######", "0151 2#######", "089/3######", "0221 4######"),
        "%d.%m.%Y",
        "deutsch",
        ("{family} Maschinenbau GmbH", "{family} & Söhne KG", "Sparkasse {city}", "{family} AG"),
        "DE",
        "de",
        labels_from(
            "Name | E-Mail | Telefon | Anschrift | PLZ | Geburtsdatum | Alter | Anrede | Firma | "
            "Staatsangehörigkeit | Ort | IBAN | Kartennummer | Steuer-ID | Führerscheinnummer | IP-Adresse | "
            "MAC-Adresse | Passwort | Standort | Datum | Webseite"
        ),
        "{title} {name}, geboren am {born}, {age} Jahre alt, Staatsangehörigkeit {nationality}, arbeitet bei "
        "{employer} in {city} und wohnt in der {address}, {postcode}. Telefon {phone}, E-Mail {email}. "
        "Steuer-ID {id}, Führerscheinnummer {licence}. IBAN {account}, Kartennummer {card}. Vertrag vom "
        "{date}, siehe {site}.",
    ),
    Locale(
        "fr",
        "FR",
        words_of(
            "Maëlys Thibault Ghislaine Loïc Solène Aurélien Bérengère Gaëtan Clémence Yannick Odile Rémi"
        ),
        words_of(
            "Delacroix Vasseur Lemoine Charpentier Bellegarde Rochefort Gauthier Perrault Duchêne Montclair"
        ),
        words_of("Beau Mont Roche Val Saint-Mar Bell Fon Clair"),
        words_of("tier vier ton gnac mont val court"),
        ("M.", "Mme", "Mlle", "Dr"),
        ("des Lilas", "Pasteur", "de la Gare", "Victor-Hugo", "du Moulin", "Jean-Jaurès", "des Tilleuls"),
        "{number} {kind} {name}",
        ("Besançon", "Limoges", "Angoulême", "Quimper", "Saint-Étienne", "Perpignan", "Dunkerque"),
        "%####",
        "{postcode} {city}",
        ("06 4# ## ## ##", "+33 1 42 ## ## ##", "04.7#.##.##.##", "+33 6 12 ## ## ##"),
        "%d/%m/%Y",
        "française",
        ("{family} et Fils SARL", "Société {family} SA", "Crédit Mutuel de {city}", "{family} SAS"),
        "FR",
        "fr",
        labels_from(
            "Nom | Courriel | Téléphone | Adresse | Code postal | Date de naissance | Âge | Civilité | "
            "Société | Nationalité | Ville | IBAN | Numéro de carte | Numéro de sécurité sociale | Numéro de "
            "permis | Adresse IP | Adresse MAC | Mot de passe | Position | Date | Site"
        ),
        "{title} {name}, date de naissance {born}, {age} ans, de nationalité {nationality}, travaille chez "
        "{employer} à {city} et habite {address}, {postcode}. Téléphone {phone}, courriel {email}. Numéro de "
        "sécurité sociale {id}, numéro de permis {licence}. IBAN {account}, numéro de carte {card}. Contrat "
        "du {date}, voir {site}.",
    ),
    Locale(
        "es",
        "ES",
        words_of("Macarena Íñigo Rocío Baltasar Nuria Anselmo Begoña Leandro Pilar Eusebio Araceli Gonzalo"),
        words_of(
            "Echeverría Zamorano Villanueva Quintanilla Peñalver Cárdenas Olmedo Santamaría Arrieta Bustos"
        ),
        words_of("Villa Monte Cas Pe Quin Arri Sal Cor"),
        words_of("llo tero ledo rrubia mora zuela verde"),
        ("Sr.", "Sra.", "D.", "Dra."),
        ("de la Paz", "Mayor", "del Carmen", "Cervantes", "de los Olivos", "San Isidro", "Real"),
        "{kind} {name}, {number}",
        ("Zaragoza", "Badajoz", "Logroño", "Albacete", "Pontevedra", "Almería", "Huesca"),
        "4####",
        "{postcode} {city}",
        ("6## ### ###", "+34 91 2## ## ##", "93 3## ## ##", "+34 61# ### ###"),
        "%d/%m/%Y",
        "española",
        ("{family} e Hijos S.L.", "Grupo {family} S.A.", "Caja Rural de {city}", "Talleres {family}"),
        "ES",
        "es",
        labels_from(
            "Nombre | Correo electrónico | Teléfono | Dirección | Código postal | Fecha de nacimiento | Edad "
            "| Tratamiento | Empresa | Nacionalidad | Ciudad | IBAN | Número de tarjeta | DNI | Permiso de "
            "conducir | Dirección IP | Dirección MAC | Contraseña | Posición | Fecha | Sitio web"
        ),
        "{title} {name}, fecha de nacimiento {born}, de {age} años y nacionalidad {nationality}, trabaja en "
        "{employer} de {city} y vive en {address}, {postcode}. Teléfono {phone}, correo electrónico {email}. "
        "DNI {id}, permiso de conducir {licence}. IBAN {account}, número de tarjeta {card}. Contrato del "
        "{date}, véase {site}.",
    ),
    Locale(
        "it",
        "IT",
        words_of(
            "Ginevra Ruggero Ornella Tancredi Fiammetta Corrado Mirella Lapo Benedetta Orazio Nives Ettore"
        ),
        words_of(
            "Bevilacqua Montefiori Castellani Pellegrini Zanardelli Tagliabue Scarpellini Guidotti Laurenti"
        ),
        words_of("Monte Bel Casta Fior Tagli Gui Zana Per"),
        words_of("lini delli tti sco ni gnoli retti"),
        ("Sig.", "Sig.ra", "Dott.", "Dott.ssa"),
        ("Garibaldi", "dei Mille", "della Repubblica", "Dante Alighieri", "delle Rose", "San Marco"),
        "{kind} {name} {number}",
        ("Bergamo", "Pescara", "Catanzaro", "Livorno", "Udine", "Foggia", "Novara"),
        "2####",
        "{postcode} {city}",
        ("+39 06 4#######", "347 #######", "02 7#######", "+39 333 #######"),
        "%d/%m/%Y",
        "italiana",
        (
            "{family} e Figli S.r.l.",
            "Gruppo {family} S.p.A.",
            "Banca Popolare di {city}",
            "Officine {family}",
        ),
        "IT",
        "it",
        labels_from(
            "Nome | Posta elettronica | Telefono | Indirizzo | CAP | Data di nascita | Età | Titolo | "
            "Azienda | Nazionalità | Città | IBAN | Numero di carta | Codice fiscale | Numero patente | "
            "Indirizzo IP | Indirizzo MAC | Password | Posizione | Data | Sito"
        ),
        "{title} {name}, data di nascita {born}, {age} anni, di nazionalità {nationality}, lavora presso "
        "{employer} a {city} e abita in {address}, {postcode}. Telefono {phone}, posta elettronica {email}. "
        "Codice fiscale {id}, numero patente {licence}. IBAN {account}, numero di carta {card}. Contratto "
        "del {date}, si veda {site}.",
    ),
    Locale(
        "nl",
        "NL",
        words_of("Marijke Joost Fenna Wouter Geertje Sjoerd Anouk Bram Liesbeth Koen Tjitske Diederik"),
        (
            "van der Veen",
            "Hoekstra",
            "de Graaf",
            "Terpstra",
            "Vermeulen",
            "van Houten",
            "Zijlstra",
            "Kuipers",
        ),
        words_of("Hoek Veld Ter Zijl Wester Bos Dijk Kui"),
        words_of("stra man huis sen ker ma hof"),
        ("Dhr.", "Mevr.", "Dr."),
        words_of("Tulpen Molen Kerk Wilhelmina Dorps Beuken Haven Spoor"),
        "{name}{kind} {number}",
        ("Leeuwarden", "Apeldoorn", "Zwolle", "Breda", "Hengelo", "Vlissingen", "Alkmaar"),
        "%### @@",
        "{postcode} {city}",
        ("06-2#######", "+31 20 5## ####", "030 2######", "+31 6 4#######"),
        "%d-%m-%Y",
        "Nederlandse",
        ("{family} Transport B.V.", "{family} & Zonen B.V.", "Stichting {family}", "{family} Groep N.V."),
        "NL",
        "nl",
        labels_from(
            "Naam | E-mail | Telefoon | Adres | Postcode | Geboortedatum | Leeftijd | Aanhef | Bedrijf | "
            "Nationaliteit | Plaats | IBAN | Kaartnummer | BSN | Rijbewijsnummer | IP-adres | MAC-adres | "
            "Wachtwoord | Positie | Datum | Website"
        ),
        "{title} {name}, geboortedatum {born}, {age} jaar oud, met de {nationality} nationaliteit, werkt bij "
        "{employer} in {city} en woont aan de {address}, {postcode}. Telefoon {phone}, e-mail {email}. BSN "
        "{id}, rijbewijsnummer {licence}. IBAN {account}, kaartnummer {card}. Contract van {date}, zie "
        "{site}.",
    ),
    Locale(
        "pl",
        "PL",
        words_of("Bożena Zbigniew Grażyna Wojciech Małgorzata Sławomir Jadwiga Przemysław Halina Łukasz"),
        words_of(
            "Wróblewski Zawadzka Kołodziej Szymborski Gąsiorowska Pietrzak Błaszczyk Niedźwiecki Wątroba"
        ),
        words_of("Wró Koł Szym Gąs Nie Pio Brze Zaw"),
        words_of("ski cki czyk wicz ewski arz ak"),
        ("Pan", "Pani", "dr"),
        ("Lipowa", "Słowackiego", "Polna", "Kościuszki", "Ogrodowa", "Mickiewicza", "Długa"),
        "{kind} {name} {number}",
        ("Białystok", "Rzeszów", "Częstochowa", "Olsztyn", "Gliwice", "Toruń", "Kielce"),
        "##-###",
        "{postcode} {city}",
        ("+48 22 5## ## ##", "601 ### ###", "+48 512 ### ###", "12 4## ## ##"),
        "%d.%m.%Y",
        "polskie",
        ("{family} Sp. z o.o.", "Zakłady {family} S.A.", "Bank Spółdzielczy w {city}", "Fundacja {family}"),
        "PL",
        "pl",
        labels_from(
            "Imię i nazwisko | E-mail | Telefon | Adres | Kod pocztowy | Data urodzenia | Wiek | Tytuł | "
            "Firma | Obywatelstwo | Miasto | IBAN | Numer karty | PESEL | Numer prawa jazdy | Adres IP | "
            "Adres MAC | Hasło | Położenie | Data | Strona"
        ),
        "{title} {name}, data urodzenia {born}, lat {age}, obywatelstwo {nationality}, pracuje w {employer} "
        "({city}) i mieszka przy {address}, {postcode}. Telefon {phone}, e-mail {email}. PESEL {id}, numer "
        "prawa jazdy {licence}. IBAN {account}, numer karty {card}. Umowa z dnia {date}, zob. {site}.",
    ),
    Locale(
        "pt",
        "PT",
        words_of("Leonor Duarte Graça Tomé Conceição Afonso Filipa Gil Inês Martim Lurdes Vasco"),
        words_of(
            "Figueiredo Carvalhal Monteiro Vasconcelos Sequeira Bragança Teixeira Mourão Falcão Guimarães"
        ),
        words_of("Figuei Car Mon Vascon Tei Mou Fal Bra"),
        words_of("redo valho teiro celos xeira rão gança"),
        ("Sr.", "Sra.", "Dr.", "Dra."),
        ("das Flores", "da Liberdade", "do Comércio", "Camões", "dos Pescadores", "da Igreja"),
        "{kind} {name}, {number}",
        ("Coimbra", "Évora", "Guimarães", "Setúbal", "Viseu", "Bragança", "Aveiro"),
        "%###-###",
        "{postcode} {city}",
        ("+351 21 3## ####", "91# ### ###", "+351 96# ### ###", "22 2## ####"),
        "%d/%m/%Y",
        "portuguesa",
        ("{family} & Filhos Lda", "Grupo {family} S.A.", "Caixa Agrícola de {city}", "{family} Unipessoal"),
        "PT",
        "pt",
        labels_from(
            "Nome | Correio eletrónico | Telefone | Morada | Código postal | Data de nascimento | Idade | "
            "Título | Empresa | Nacionalidade | Cidade | IBAN | Número do cartão | NIF | Carta de condução | "
            "Endereço IP | Endereço MAC | Palavra-passe | Posição | Data | Sítio"
        ),
        "{title} {name}, data de nascimento {born}, {age} anos, de nacionalidade {nationality}, trabalha na "
        "{employer} em {city} e mora em {address}, {postcode}. Telefone {phone}, correio eletrónico {email}. "
        "NIF {id}, carta de condução {licence}. IBAN {account}, número do cartão {card}. Contrato de {date}, "
        "ver {site}.",
    ),
    Locale(
        "sv",
        "SE",
        words_of("Åsa Torbjörn Gunilla Sixten Linnéa Håkan Ebba Göran Solveig Viggo Märta Örjan"),
        words_of("Lindqvist Sjögren Hedström Åkerblom Bergström Norrby Öberg Wallin Ekdahl Strömbäck"),
        words_of("Lind Berg Sjö Ek Ny Hed Norr Ström"),
        words_of("qvist gren ström blom dahl man bäck"),
        ("Herr", "Fru", "Dr"),
        words_of("Björk Kungs Stor Skol Järnvägs Ängs Kvarn Parkvägs"),
        "{name}{kind} {number}",
        ("Västerås", "Örebro", "Umeå", "Jönköping", "Borås", "Kalmar", "Östersund"),
        "%## ##",
        "{postcode} {city}",
        ("070-3## ## ##", "+46 8 5## ### ##", "031-7## ## ##", "+46 73 4## ## ##"),
        "%Y-%m-%d",
        "svensk",
        ("{family} Bygg AB", "{family} & Söner AB", "{city} Sparbank", "{family} Konsult HB"),
        "SE",
        "se",
        labels_from(
            "Namn | E-post | Telefon | Adress | Postnummer | Födelsedatum | Ålder | Titel | Företag | "
            "Medborgarskap | Ort | IBAN | Kortnummer | Personnummer | Körkortsnummer | IP-adress | "
            "MAC-adress | Lösenord | Position | Datum | Webbplats"
        ),
        "{title} {name}, födelsedatum {born}, {age} år gammal, medborgarskap {nationality}, arbetar på "
        "{employer} i {city} och bor på {address}, {postcode}. Telefon {phone}, e-post {email}. Personnummer "
        "{id}, körkortsnummer {licence}. IBAN {account}, kortnummer {card}. Avtal av den {date}, se {site}.",
    ),
    *LATER_LOCALES,
)

STREET_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    **LATER_STREET_KINDS,
    "US": ("Street", "Avenue", "Lane", "Rd", "Blvd", "Drive"),
    "GB": ("Street", "Road", "Close", "Lane", "Crescent"),
    "DE": ("straße", "weg", "allee", "gasse"),
    "FR": ("rue", "avenue", "boulevard", "impasse"),
    "ES": ("Calle", "Avenida", "Plaza", "Paseo"),
    "IT": ("Via", "Viale", "Piazza", "Corso"),
    "NL": ("straat", "weg", "laan", "plein"),
    "PL": ("ul.", "al.", "pl."),
    "PT": ("Rua", "Avenida", "Praça", "Travessa"),
    "SE": ("gatan", "vägen", "gränd"),
}
STATES: Final = words_of("MN WA GA OH NM ID TN IL")
