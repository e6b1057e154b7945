"""Words of the drawn images' captions: nouns, colours, numbers, positions in the demo's languages.

A table's entry begins with a gender where the language has any that matter, and goes on with the
forms for one, two and three things; the last form serves the counts that have none of their own.
Genders are divided by "|"; an entry without a gender serves all. "-" is a word that is left out:
Arabic has a dual. A sentence has a template, or one for each count.
"""

SENTENCES = {
    "ar": "{noun} {colour} {number} {position}|{noun} {colour} {position}|"
    "{number} {noun} {colour} {position}",
    "de": "{number} {colour} {noun} {position}",
    "en": "{number} {colour} {noun} {position}",
    "es": "{number} {noun} {colour} {position}",
    "hi": "{position} {number} {colour} {noun}",
    "ru": "{number} {colour} {noun} {position}",
    "tr": "{position} {number} {colour} {noun}",
    "zh": "{position}有{number}个{colour}的{noun}",
}

NUMBERS = {
    "ar": "m واحد - ثلاثة|f واحدة - ثلاث",  # three takes the gender that the noun has not
    "de": "m ein zwei drei|f eine zwei drei|n ein zwei drei",
    "en": "one two three",
    "es": "m un dos tres|f una dos tres",
    "hi": "एक दो तीन",
    "ru": "m один два три|f одна две три|n одно два три",
    "tr": "bir iki üç",
    "zh": "一 两 三",
}

NOUNS = {
    "ar": {
        "circle": "f دائرة دائرتان دوائر",
        "square": "m مربع مربعان مربعات",
        "triangle": "m مثلث مثلثان مثلثات",
        "star": "f نجمة نجمتان نجوم",
        "heart": "m قلب قلبان قلوب",
        "cross": "m صليب صليبان صلبان",
    },
    "de": {
        "circle": "m Kreis Kreise",
        "square": "n Quadrat Quadrate",
        "triangle": "n Dreieck Dreiecke",
        "star": "m Stern Sterne",
        "heart": "n Herz Herzen",
        "cross": "n Kreuz Kreuze",
    },
    "en": {
        "circle": "circle circles",
        "square": "square squares",
        "triangle": "triangle triangles",
        "star": "star stars",
        "heart": "heart hearts",
        "cross": "cross crosses",
    },
    "es": {
        "circle": "m círculo círculos",
        "square": "m cuadrado cuadrados",
        "triangle": "m triángulo triángulos",
        "star": "f estrella estrellas",
        "heart": "m corazón corazones",
        "cross": "f cruz cruces",
    },
    "hi": {  # all masculine
        "circle": "वृत्त",
        "square": "वर्ग",
        "triangle": "त्रिभुज",
        "star": "तारा तारे",
        "heart": "दिल",
        "cross": "क्रॉस",
    },
    "ru": {  # two and three take the genitive singular
        "circle": "m круг круга",
        "square": "m квадрат квадрата",
        "triangle": "m треугольник треугольника",
        "star": "f звезда звезды",
        "heart": "n сердце сердца",
        "cross": "m крест креста",
    },
    "tr": {  # no plural after a number
        "circle": "daire",
        "square": "kare",
        "triangle": "üçgen",
        "star": "yıldız",
        "heart": "kalp",
        "cross": "haç",
    },
    "zh": {
        "circle": "圆形",
        "square": "正方形",
        "triangle": "三角形",
        "star": "五角星",
        "heart": "心形",
        "cross": "十字形",
    },
}

COLOURS = {
    "ar": {  # three things take the feminine singular
        "red": "m أحمر أحمران حمراء|f حمراء حمراوان حمراء",
        "blue": "m أزرق أزرقان زرقاء|f زرقاء زرقاوان زرقاء",
        "green": "m أخضر أخضران خضراء|f خضراء خضراوان خضراء",
        "yellow": "m أصفر أصفران صفراء|f صفراء صفراوان صفراء",
        "black": "m أسود أسودان سوداء|f سوداء سوداوان سوداء",
        "purple": "m بنفسجي بنفسجيان بنفسجية|f بنفسجية بنفسجيتان بنفسجية",
    },
    "de": {
        "red": "m roter rote|n rotes rote",
        "blue": "m blauer blaue|n blaues blaue",
        "green": "m grüner grüne|n grünes grüne",
        "yellow": "m gelber gelbe|n gelbes gelbe",
        "black": "m schwarzer schwarze|n schwarzes schwarze",
        "purple": "m violetter violette|n violettes violette",
    },
    "en": {
        "red": "red",
        "blue": "blue",
        "green": "green",
        "yellow": "yellow",
        "black": "black",
        "purple": "purple",
    },
    "es": {
        "red": "m rojo rojos|f roja rojas",
        "blue": "azul azules",
        "green": "verde verdes",
        "yellow": "m amarillo amarillos|f amarilla amarillas",
        "black": "m negro negros|f negra negras",
        "purple": "m morado morados|f morada moradas",
    },
    "hi": {
        "red": "लाल",
        "blue": "नीला नीले",
        "green": "हरा हरे",
        "yellow": "पीला पीले",
        "black": "काला काले",
        "purple": "बैंगनी",
    },
    "ru": {
        "red": "m красный красных|f красная красные|n красное красных",
        "blue": "m синий синих|f синяя синие|n синее синих",
        "green": "m зелёный зелёных|f зелёная зелёные|n зелёное зелёных",
        "yellow": "m жёлтый жёлтых|f жёлтая жёлтые|n жёлтое жёлтых",
        "black": "m чёрный чёрных|f чёрная чёрные|n чёрное чёрных",
        "purple": "m фиолетовый фиолетовых|f фиолетовая фиолетовые|n фиолетовое фиолетовых",
    },
    "tr": {
        "red": "kırmızı",
        "blue": "mavi",
        "green": "yeşil",
        "yellow": "sarı",
        "black": "siyah",
        "purple": "mor",
    },
    "zh": {
        "red": "红色",
        "blue": "蓝色",
        "green": "绿色",
        "yellow": "黄色",
        "black": "黑色",
        "purple": "紫色",
    },
}

# top left | top right | bottom left | bottom right | centre
POSITIONS = {
    "ar": "في أعلى اليسار|في أعلى اليمين|في أسفل اليسار|في أسفل اليمين|في الوسط",
    "de": "oben links|oben rechts|unten links|unten rechts|in der Mitte",
    "en": "at the top left|at the top right|at the bottom left|at the bottom right|in the centre",
    "es": "arriba a la izquierda|arriba a la derecha|abajo a la izquierda|abajo a la derecha|"
    "en el centro",
    "hi": "ऊपर बाईं ओर|ऊपर दाईं ओर|नीचे बाईं ओर|नीचे दाईं ओर|बीच में",
    "ru": "слева вверху|справа вверху|слева внизу|справа внизу|в центре",
    "tr": "sol üstte|sağ üstte|sol altta|sağ altta|ortada",
    "zh": "左上角|右上角|左下角|右下角|正中间",
}
